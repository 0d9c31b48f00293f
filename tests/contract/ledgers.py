"""Builders of ledger events and prices, and the rollups that they must add up to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select

from llmariner.gateway.metering.pricing import Cost
from llmariner.platform.database import Database
from llmariner.usage.aggregation import ROLLUPS, request_cost
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import PriceList
from llmariner.usage.tables import SUM_COLUMNS, ledger_requests, prices

LAST = 2**31 - 1
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
Sums = dict[tuple[Any, ...], tuple[int, ...]]


def event(request_id: str, sequence: int, kind: str, tokens: tuple[int, int, int], **values: Any) -> dict[str, Any]:
    """A ledger event as the meter makes it."""
    identity = {"organization_id": "org_1", "project_id": "proj_1", "user_id": "user_1", "key_id": "key_1"}
    said = {"model": "m", "route": "chat_completions", "adapter": None, "admitted_at": 1000.0}
    said |= {
        "at": 1000.0 + min(sequence, 99),
        "outcome": "open",
        "status": 0,
        "reasoning_tokens": 0,
        "trained_tokens": 0,
    }
    times = ("waited_seconds", "queued_seconds", "wake_seconds", "first_token_seconds", "total_seconds")
    counts = dict(zip(TOKENS, tokens, strict=True))
    known = {"request_id": request_id, "sequence": sequence, "kind": kind}
    return {**known, **identity, **said, **dict.fromkeys(times), **counts, **values}


def closing_event(request_id: str, tokens: tuple[int, int, int], **values: Any) -> dict[str, Any]:
    """A closing event."""
    said = {"outcome": "succeeded", "status": 200, "waited_seconds": 0.5, "first_token_seconds": 0.75}
    return event(request_id, LAST, "closed", tokens, **(said | values))


def request_events(request_id: str, *counts: int, **values: Any) -> list[dict[str, Any]]:
    """The events of one request: admitted, a checkpoint per count, closed."""
    checkpoints = [event(request_id, n + 1, "checkpoint", (9, count, 3), **values) for n, count in enumerate(counts)]
    end = closing_event(request_id, (9, (counts or (1,))[-1], 3), **values)
    return [event(request_id, 0, "admitted", (0, 0, 0), **values), *checkpoints, end]


def put_price(
    database: Database,
    model: str,
    start: float,
    end: float | None,
    rates: tuple[int, int, int, int],
    price_id: str | None = None,
) -> str:
    """Insert a price, even one of the past. `rates`: nano-dollars per million prompt, cached, output tokens; per request."""
    made = price_id or f"price_{model}_{start}"
    names = ("prompt", "cached_prompt", "completion", "request")
    with database.write() as session:
        values = dict(zip(names, rates, strict=True))
        session.add(prices, id=made, model=model, valid_from=start, valid_to=end, created_at=1, **values)
    return made


def stored_rollups(database: Database) -> Sums:
    """The rows of all rollups, except those of zeros: (table, organization, start, dimensions) → sums."""
    found: Sums = {}
    with database.read() as session:
        for rollup in ROLLUPS:
            names = ("organization_id", "start", *rollup.dimensions)
            for row in session.rows(select(rollup.table)):
                known = row._mapping
                found[rollup.table.name, *(known[name] for name in names)] = tuple(
                    int(known[name]) for name in SUM_COLUMNS
                )
    return {key: sums for key, sums in found.items() if any(sums)}


def expected_rollups(database: Database) -> Sums:
    """The rows that rollups must hold, computed from the stored requests alone."""
    with database.read() as session:
        rows = [dict(row._mapping) for row in session.rows(select(ledger_requests))]
        listed = PriceList.for_models(session, {row["model"] for row in rows})
    found: Sums = {}
    for row in rows:
        values = _measured(row, request_cost(row, listed.by_id(row["price_id"])))
        for rollup in ROLLUPS:
            start = int(row["admitted_at"] // rollup.width) * rollup.width
            key = (rollup.table.name, row["organization_id"], start, *(row[name] for name in rollup.dimensions))
            found[key] = tuple(map(sum, zip(values, found.get(key, [0] * len(SUM_COLUMNS)), strict=True)))
    return found


def _measured(row: dict[str, Any], cost: Cost) -> list[int]:
    first, total = row["first_token_seconds"], row["total_seconds"]
    tokens = [row[name] for name in (*TOKENS, "reasoning_tokens", "trained_tokens")]
    money = [cost.total, cost.prompt, cost.cached, cost.completion, cost.training]
    times = [int((seconds or 0) * 1_000_000 + 0.5) for seconds in (total, first)]
    return [1, *tokens, *money, *times, first is not None, row["outcome"] == "succeeded", row["outcome"] != "open"]


def assert_rebuilt_equals_stored(database: Database, request_ids: Iterable[str]) -> None:
    """Assert that each request, folded again from its events, equals the stored row."""
    ledger = Ledger(database)
    for request_id in request_ids:
        stored = ledger.request(request_id)
        assert stored is not None
        again = ledger.rebuild(request_id)
        assert {name: again[name] for name in stored} == stored
