"""The end of a request: its usage is recorded, and its reservation settled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmariner.gateway.limits.applicable_limits import Reservation
    from llmariner.gateway.metering.meter import MeteredRequest
    from llmariner.gateway.metering.pricing import Price
    from llmariner.gateway.state import Gateway

__all__ = ["settle"]

_log = logging.getLogger(__name__)


def settle(
    gateway: Gateway,
    request_id: str,
    metered: MeteredRequest,
    outcome: str,
    status: int,
    reservation: Reservation,
    price: Price | None,
) -> None:
    """Record the usage and settle the reservation. Never raises, since the response can no longer change."""
    tokens, cost = reservation.tokens, reservation.money
    try:
        event = gateway.meter.close(metered, outcome, status)
        gateway.metrics.observe(event)
        tokens = event["prompt_tokens"] + event["completion_tokens"]
        cost = price.cost(event, outcome).total if price is not None and reservation.applicable.budgets else 0
    except Exception:
        _log.exception("recording the usage of request %s failed: it is charged what it had reserved", request_id)
    reservation.settle(tokens, cost, metered.admitted_at)
