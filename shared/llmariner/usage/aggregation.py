"""Pure functions from ledger events to a request's row, and from that row to its contribution to rollups.

An event holds the request's usage *so far*, and folding takes the maximum; the outcome comes from the closing event, else
from the interruption. So events may arrive more than once, late and in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Table

from llmariner.errors import InvalidRequest
from llmariner.gateway.metering.pricing import FREE, Cost, Price
from llmariner.usage.tables import SUM_COLUMNS, ledger_days, ledger_events, ledger_hours, ledger_project_days

__all__ = [
    "DAY",
    "HOUR",
    "INTERRUPTED",
    "OPEN",
    "ROLLUPS",
    "TOKENS",
    "Rollup",
    "RollupDelta",
    "apply_events",
    "event_row",
    "interruption_event",
    "new_request",
    "request_cost",
    "validate_event",
]

OPEN = "open"
INTERRUPTED = "interrupted"
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "trained_tokens")
HOUR, DAY = 3600, 86400
# The year 9999: the last one that databases and clients can represent.
_MAX_TIME = 253_402_300_800
_KINDS = ("admitted", "checkpoint", "closed")
_IDENTITY = ("organization_id", "project_id", "user_id", "key_id", "model", "route", "adapter", "admitted_at")
_TIMES = ("waited_seconds", "queued_seconds", "wake_seconds", "first_token_seconds", "total_seconds")
_OUTCOME = ("outcome", "status", *_TIMES)
# Defaults of fields that earlier releases do not send.
_DEFAULTS = {
    "reasoning_tokens": 0,
    "trained_tokens": 0,
    **dict.fromkeys(("adapter", "base_model", "queued_seconds", "wake_seconds", "total_seconds")),
    **dict.fromkeys(("model_project_id", "base_project_id")),
}
_REQUIRED = frozenset({"request_id", "sequence", "kind", "at", *TOKENS, *_IDENTITY}) - _DEFAULTS.keys()
_REQUIRED_WHEN_CLOSED = _REQUIRED | frozenset(_OUTCOME) - _DEFAULTS.keys()
# Sorts after every checkpoint and before the closing event.
_INTERRUPTION_SEQUENCE = 2**31 - 2
# A 64-bit column must hold sums of many thousand such counts.
_MAX_TOKENS = 2**40
_EVENT_COLUMNS = tuple(column.name for column in ledger_events.c)
_COMMON = frozenset({"request_id", "sequence", "kind", "at", *TOKENS})


class Rollup(NamedTuple):
    """A table of sums: the seconds that each of its rows covers, and its dimensions."""

    table: Table
    width: int
    dimensions: tuple[str, ...]


def _rollup(table: Table, width: int) -> Rollup:
    return Rollup(table, width, tuple(column.name for column in table.primary_key)[2:])


ROLLUPS = (_rollup(ledger_project_days, DAY), _rollup(ledger_days, DAY), _rollup(ledger_hours, HOUR))
"""All rollups, coarsest first."""
_FINEST = ROLLUPS[-1].dimensions


Validator = Callable[[Any], bool]


def _count(maximum: int) -> Validator:
    return lambda value: type(value) is int and 0 <= value <= maximum


def _seconds(minimum: float) -> Validator:
    # A duration is negative if the clock was set back meanwhile.
    return lambda value: type(value) in (int, float) and minimum <= value < _MAX_TIME


def _text(name: str) -> Validator:
    length = ledger_events.c[name].type.length  # type: ignore[attr-defined]
    return lambda value: type(value) is str and len(value) <= length and value.isprintable()


def _or_none(is_valid: Validator) -> Validator:
    return lambda value: value is None or is_valid(value)


_VALIDATORS: dict[str, Validator] = {
    **dict.fromkeys(TOKENS, _count(_MAX_TOKENS)),
    "sequence": _count(2**31 - 1),
    "status": _or_none(_count(999)),
    **dict.fromkeys(("at", "admitted_at"), _seconds(0)),
    **dict.fromkeys(_TIMES, _or_none(_seconds(-_MAX_TIME))),
    **{name: _text(name) for name in ("request_id", *_IDENTITY) if name not in ("adapter", "admitted_at")},
    **{name: _or_none(_text(name)) for name in ("adapter", "outcome")},
    "base_model": _or_none(_text("model")),
    **dict.fromkeys(("model_project_id", "base_project_id"), _or_none(_text("project_id"))),
}
"""Per field: whether its column can hold a value, and sums of such values."""


def validate_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event with all fields. Raises InvalidRequest if one is missing or cannot be stored."""
    is_closing = isinstance(event, Mapping) and event.get("kind") == "closed"
    required = _REQUIRED_WHEN_CLOSED if is_closing else _REQUIRED
    if not isinstance(event, Mapping) or not event.keys() >= required or event["kind"] not in _KINDS:
        raise InvalidRequest(f"A ledger event needs {', '.join(sorted(required))}.", param="events")
    complete = {**dict.fromkeys(_EVENT_COLUMNS), **_DEFAULTS, **event}
    for name, is_valid in _VALIDATORS.items():
        if not is_valid(complete[name]):
            raise InvalidRequest(f"In a ledger event '{name}' can't be {repr(complete[name])[:100]}.", param="events")
    if is_closing and complete["total_seconds"] is None:
        complete["total_seconds"] = complete["at"] - complete["admitted_at"]
    return complete


def event_row(event: Mapping[str, Any], *, first: bool, price_id: str | None) -> dict[str, Any]:
    """The row of an event. The first event of a request to arrive stores its identity, the closing one its outcome."""
    kept = {*_COMMON, *(_IDENTITY if first else ()), *(_OUTCOME if event["kind"] == "closed" else ())}
    row = {name: event[name] if name in kept else None for name in _EVENT_COLUMNS}
    return row | ({"price_id": price_id} if first else {})


def new_request(event: Mapping[str, Any], price_id: str | None) -> dict[str, Any]:
    """The row of an open request without usage, with the identity that an event holds."""
    return {
        "request_id": event["request_id"],
        **_identity(event),
        "outcome": OPEN,
        "status": 0,
        "seen_at": event["admitted_at"],
        "closed_at": None,
        **dict.fromkeys(_TIMES),
        **dict.fromkeys(TOKENS, 0),
        "price_id": price_id,
        "cost": 0,
    }


def interruption_event(request: Mapping[str, Any]) -> dict[str, Any]:
    """The event that closes a request without an event since `seen_at` as interrupted."""
    counts = {name: request[name] for name in TOKENS}
    head = {"request_id": request["request_id"], "sequence": _INTERRUPTION_SEQUENCE, "kind": INTERRUPTED}
    return {**dict.fromkeys(_EVENT_COLUMNS), **head, "at": request["seen_at"], **counts}


def apply_events(
    request: Mapping[str, Any], events: Iterable[Mapping[str, Any]], price: Price | None
) -> dict[str, Any]:
    """The row of a request after more of its events, in any order. `price` is that of its `price_id`."""
    row = dict(request)
    for event in events:
        for name in TOKENS:
            row[name] = max(row[name], event[name])
        row["seen_at"] = max(row["seen_at"], event["at"])
        if event["kind"] == "closed":
            row |= {name: event[name] for name in _OUTCOME} | {"closed_at": event["at"]}
        elif event["kind"] == INTERRUPTED and row["outcome"] == OPEN:
            duration = event["at"] - row["admitted_at"]
            row |= {"outcome": INTERRUPTED, "closed_at": event["at"], "total_seconds": duration}
    row["cost"] = request_cost(row, price).total
    return row


def request_cost(request: Mapping[str, Any], price: Price | None) -> Cost:
    """The cost of a request or of a training, by component."""
    if price is None:
        return FREE
    if request["trained_tokens"]:
        return price.training_cost(request["trained_tokens"])
    return price.cost(request, request["outcome"])


class RollupDelta:
    """Changes of rollups, collected over many requests and then added at once."""

    def __init__(self) -> None:
        self._by_hour: dict[tuple[Any, ...], list[int]] = {}

    def replace(self, before: Mapping[str, Any] | None, after: Mapping[str, Any], price: Price | None) -> None:
        """Replace a request's contribution. `before` None: the request is new."""
        if before is not None:
            self._add(before, price, -1)
        self._add(after, price, 1)

    def rows(self, rollup: Rollup) -> list[dict[str, Any]]:
        """The amounts to add to the rows of a rollup, in the order of keys: locks taken in one order cannot deadlock."""
        positions = [_FINEST.index(name) for name in rollup.dimensions]
        found: dict[tuple[Any, ...], list[int]] = {}
        for (organization_id, start, *rest), sums in self._by_hour.items():
            key = (organization_id, start // rollup.width * rollup.width, *(rest[position] for position in positions))
            total = found.get(key)
            found[key] = sums if total is None else [one + other for one, other in zip(total, sums, strict=True)]
        names = ("organization_id", "start", *rollup.dimensions, *SUM_COLUMNS)
        return [dict(zip(names, (*key, *sums), strict=True)) for key, sums in sorted(found.items()) if any(sums)]

    def _add(self, request: Mapping[str, Any], price: Price | None, sign: int) -> None:
        cost, first = request_cost(request, price), request["first_token_seconds"]
        values = (
            1,
            *(request[name] for name in TOKENS),
            cost.total,
            cost.prompt,
            cost.cached,
            cost.completion,
            cost.training,
            _microseconds(request["total_seconds"]),
            _microseconds(first),
            0 if first is None else 1,
            1 if request["outcome"] == "succeeded" else 0,
            0 if request["outcome"] == OPEN else 1,
        )
        hour = math.floor(request["admitted_at"] / HOUR) * HOUR
        key = (request["organization_id"], hour, *(request[name] for name in _FINEST))
        sums = self._by_hour.setdefault(key, [0] * len(SUM_COLUMNS))
        for index, value in enumerate(values):
            sums[index] += sign * value


def _identity(event: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all events of a request share."""
    return {name: event[name] for name in _IDENTITY}


def _microseconds(seconds: float | None) -> int:
    return 0 if seconds is None else math.floor(seconds * 1_000_000 + 0.5)
