"""Reservations from the budgets of a request, before an engine works for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmariner.gateway.limits.applicable_limits import Reservation, max_cost
from llmariner.gateway.limits.token_bounds import max_request_tokens

if TYPE_CHECKING:
    from llmariner.gateway.control_plane.port import ModelState
    from llmariner.gateway.requests.fields import Route
    from llmariner.gateway.requests.parser import ModelRequest
    from llmariner.gateway.state import Gateway

__all__ = ["reserve_budget"]


async def reserve_budget(
    gateway: Gateway,
    route: Route,
    reservation: Reservation,
    request: ModelRequest,
    body: bytes,
    model_id: str,
    state: ModelState,
) -> None:
    """Reserve the cost of the longest possible completion from the budgets. Raises InsufficientQuota.

    `body`: what the engine receives. `model_id`: in the registry.
    """
    if state.price is None:
        return
    tokens = await max_request_tokens(gateway, route, request, body, model_id, state)
    money = max_cost(state.price, *tokens)
    if money and not gateway.limiter.try_reserve_money(reservation, money):
        await gateway.limiter.reserve_money(reservation, money)
