"""From events to a request, and from a request to what it adds to the sums: no database here.

An event says what a request has used *so far*, and the fold takes the greatest; what ended it is said by the closing event,
else by the interruption. So events may come twice, late or in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Table

from llmariner.errors import InvalidRequest
from llmariner.gateway.metering.pricing import FREE, Cost, Price
from llmariner.usage.tables import SUMS, ledger_days, ledger_events, ledger_hours, ledger_project_days

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
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
HOUR, DAY = 3600, 86400
# The year 9999: what databases and clients can still show.
_MAX_TIME = 253_402_300_800
_KINDS = ("admitted", "checkpoint", "closed")
_IDENTITY = ("organization_id", "project_id", "user_id", "key_id", "model", "route", "adapter", "admitted_at")
_TIMES = ("waited_seconds", "queued_seconds", "wake_seconds", "first_token_seconds", "total_seconds")
_OUTCOME = ("outcome", "status", *_TIMES)
# What processes of an older version do not say.
_DEFAULTS = {
    "reasoning_tokens": 0,
    **dict.fromkeys(("adapter", "base_model", "queued_seconds", "wake_seconds", "total_seconds")),
    **dict.fromkeys(("model_project_id", "base_project_id")),
}
_REQUIRED = frozenset({"request_id", "sequence", "kind", "at", *TOKENS, *_IDENTITY}) - _DEFAULTS.keys()
_REQUIRED_WHEN_CLOSED = _REQUIRED | frozenset(_OUTCOME) - _DEFAULTS.keys()
# Before the closing event's place, after any checkpoint's.
_INTERRUPTION_SEQUENCE = 2**31 - 2
# What a column of 64 bits takes many thousand times over: sums of these are stored, too.
_MAX_TOKENS = 2**40
_EVENT_COLUMNS = tuple(column.name for column in ledger_events.c)
_COMMON = frozenset({"request_id", "sequence", "kind", "at", *TOKENS})


class Rollup(NamedTuple):
    """One of the tables of sums: over how many seconds each of its rows is, and what it tells apart."""

    table: Table
    width: int
    dimensions: tuple[str, ...]


def _rollup(table: Table, width: int) -> Rollup:
    return Rollup(table, width, tuple(column.name for column in table.primary_key)[2:])


ROLLUPS = (_rollup(ledger_project_days, DAY), _rollup(ledger_days, DAY), _rollup(ledger_hours, HOUR))
"""The coarsest first."""
_FINEST = ROLLUPS[-1].dimensions


Validator = Callable[[Any], bool]


def _count(most: int) -> Validator:
    return lambda value: type(value) is int and 0 <= value <= most


def _seconds(least: float) -> Validator:
    # Of a clock that was set back in between, a duration may be negative.
    return lambda value: type(value) in (int, float) and least <= value < _MAX_TIME


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
"""By field, whether the columns take a value, and sums of such values, too."""


def validate_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with all fields there are. InvalidRequest when a required one is missing, or can't be stored."""
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
    """What of an event is kept: whose the request is by the first one that came of it, how it ended by its last."""
    kept = {*_COMMON, *(_IDENTITY if first else ()), *(_OUTCOME if event["kind"] == "closed" else ())}
    row = {name: event[name] if name in kept else None for name in _EVENT_COLUMNS}
    return row | ({"price_id": price_id} if first else {})


def new_request(event: Mapping[str, Any], price_id: str | None) -> dict[str, Any]:
    """A request of which nothing is known but whose it is."""
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
    """The event by which a request ends that gave no sign of life since `seen_at`."""
    counts = {name: request[name] for name in TOKENS}
    said = {"request_id": request["request_id"], "sequence": _INTERRUPTION_SEQUENCE, "kind": INTERRUPTED}
    return {**dict.fromkeys(_EVENT_COLUMNS), **said, "at": request["seen_at"], **counts}


def apply_events(
    request: Mapping[str, Any], events: Iterable[Mapping[str, Any]], price: Price | None
) -> dict[str, Any]:
    """A request with more of its events in it. `price` is the one of its `price_id`."""
    row = dict(request)
    for event in events:
        for name in TOKENS:
            row[name] = max(row[name], event[name])
        row["seen_at"] = max(row["seen_at"], event["at"])
        if event["kind"] == "closed":
            row |= {name: event[name] for name in _OUTCOME} | {"closed_at": event["at"]}
        elif event["kind"] == INTERRUPTED and row["outcome"] == OPEN:
            lived = event["at"] - row["admitted_at"]
            row |= {"outcome": INTERRUPTED, "closed_at": event["at"], "total_seconds": lived}
    row["cost"] = request_cost(row, price).total
    return row


def request_cost(request: Mapping[str, Any], price: Price | None) -> Cost:
    """What a request costs, in its parts."""
    return price.cost(request, request["outcome"]) if price is not None else FREE


class RollupDelta:
    """What changes in the sums; to be gathered over many requests, and then added at once."""

    def __init__(self) -> None:
        self._by_hour: dict[tuple[Any, ...], list[int]] = {}

    def replace(self, before: Mapping[str, Any] | None, after: Mapping[str, Any], price: Price | None) -> None:
        """A request became another. `before` None: there was none."""
        if before is not None:
            self._add(before, price, -1)
        self._add(after, price, 1)

    def rows(self, rollup: Rollup) -> list[dict[str, Any]]:
        """What is to be added to the rows of a table, in the order of their keys: whoever adds, locks in that order."""
        places = [_FINEST.index(name) for name in rollup.dimensions]
        found: dict[tuple[Any, ...], list[int]] = {}
        for (organization_id, start, *rest), sums in self._by_hour.items():
            key = (organization_id, start // rollup.width * rollup.width, *(rest[place] for place in places))
            known = found.get(key)
            found[key] = sums if known is None else [one + other for one, other in zip(known, sums, strict=True)]
        names = ("organization_id", "start", *rollup.dimensions, *SUMS)
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
            _microseconds(request["total_seconds"]),
            _microseconds(first),
            0 if first is None else 1,
            1 if request["outcome"] == "succeeded" else 0,
            0 if request["outcome"] == OPEN else 1,
        )
        hour = math.floor(request["admitted_at"] / HOUR) * HOUR
        key = (request["organization_id"], hour, *(request[name] for name in _FINEST))
        sums = self._by_hour.setdefault(key, [0] * len(SUMS))
        for index, value in enumerate(values):
            sums[index] += sign * value


def _identity(event: Mapping[str, Any]) -> dict[str, Any]:
    """Whose a request is: what all its events say alike."""
    return {name: event[name] for name in _IDENTITY}


def _microseconds(seconds: float | None) -> int:
    return 0 if seconds is None else math.floor(seconds * 1_000_000 + 0.5)
