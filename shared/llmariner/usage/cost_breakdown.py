"""The cost of a request, with the events that its counts come from and the price that was applied."""

from __future__ import annotations

from typing import Any

from llmariner.gateway.metering.pricing import Price
from llmariner.platform.database import Database
from llmariner.usage.aggregation import TOKENS, request_cost
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import NANO_PER_DOLLAR, PriceList, dollars

__all__ = ["cost_breakdown"]

_FIELDS = ("model", "adapter", "route", "outcome", "status", "admitted_at", "closed_at")
_TIMES = ("waited_seconds", "queued_seconds", "wake_seconds", "first_token_seconds", "total_seconds")


def cost_breakdown(database: Database, request_id: str) -> dict[str, Any]:
    """A request rebuilt from its events, each with its usage and cost so far. Raises NotFound."""
    ledger = Ledger(database)
    history = ledger.history(request_id)
    rebuilt, stored = history[-1], ledger.request(request_id)
    with database.read() as session:
        price = PriceList.with_ids(session, [rebuilt["price_id"]]).by_id(rebuilt["price_id"])
    return {
        "object": "organization.usage.request",
        "id": request_id,
        "organization_id": rebuilt["organization_id"],
        "project_id": rebuilt["project_id"],
        "user_id": rebuilt["user_id"],
        "api_key_id": rebuilt["key_id"],
        **{name: rebuilt[name] for name in (*_FIELDS, *_TIMES, *TOKENS)},
        "amount": {"value": rebuilt["cost"] / NANO_PER_DOLLAR, "currency": "usd"},
        "price_id": rebuilt["price_id"],
        "line_items": _line_items(rebuilt, price) if price is not None else [],
        "events": [_event_item(state) for state in history],
        "rebuilt_equals_stored": stored is not None and all(rebuilt[name] == value for name, value in stored.items()),
    }


def _line_items(request: dict[str, Any], price: Price) -> list[dict[str, Any]]:
    """The line items of a request; token prices are per million."""
    cost = request_cost(request, price)
    cached = min(request["cached_tokens"], request["prompt_tokens"])
    return [
        {"line_item": name, "quantity": quantity, "price_usd": dollars(each), "amount_usd": dollars(amount)}
        for name, quantity, each, amount in (
            ("input_tokens", request["prompt_tokens"] - cached, price.prompt, cost.prompt),
            ("cached_input_tokens", cached, price.cached_prompt, cost.cached),
            ("output_tokens", request["completion_tokens"], price.completion, cost.completion),
            ("requests", int(cost.request > 0), price.request, cost.request),
            ("trained_tokens", request["trained_tokens"], price.training, cost.training),
        )
        if quantity
    ]


def _event_item(state: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: state[name] for name in ("sequence", "kind", "at", "outcome", *TOKENS)},
        "amount_usd": dollars(state["cost"]),
    }
