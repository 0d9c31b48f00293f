"""The ledger: events per request, folded into one row each.

An event says what a request has used *so far*, and the fold takes the greatest, so that events may come twice, late or
out of order and the sums stay right. A request is open until its closing event; one whose process is gone is closed as
interrupted, with what its last checkpoint said.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select, update

from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database, WriteSession
from llmariner.usage.tables import ledger_events, ledger_requests

__all__ = ["KINDS", "OPEN", "Ledger", "UsageQuery"]

KINDS = ("admitted", "checkpoint", "closed")
OPEN = "open"
_INTERRUPTED = "interrupted"
_IDENTITY = ("request_id", "organization_id", "project_id", "user_id", "key_id", "model", "route")
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
_NEEDED = frozenset({*_IDENTITY, *_TOKENS, "sequence", "kind", "at", "admitted_at"})
_DETAILS = ("outcome", "status", "waited_seconds", "first_token_seconds")
_DAY = 86400
_GROUPS = {"key": ledger_requests.c.key_id, "model": ledger_requests.c.model}


@dataclass(frozen=True)
class UsageQuery:
    """Which requests, and by what they are summed. Times in seconds since 1970, `end_time` exclusive."""

    project_id: str
    start_time: float
    end_time: float
    group_by: tuple[str, ...] = ("key", "model", "day")

    def __post_init__(self) -> None:
        for name in self.group_by:
            if name not in (*_GROUPS, "day"):
                raise InvalidRequest(f"'group_by' must be key, model or day, not '{name}'.", param="group_by")
        if self.end_time <= self.start_time:
            raise InvalidRequest("'end_time' must be after 'start_time'.", param="end_time")


class Ledger:
    """The ledger of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Take a batch of events, each whole or not at all known before; returns how many were new."""
        new = 0
        with self._database.write() as session:
            for event in events:
                row = _row(event)
                if session.insert_new(ledger_events, [row]):
                    _fold(session, event)
                    new += 1
        return new

    def interrupt(self, *, unseen_for: float) -> int:
        """Close as interrupted what is open and gave no sign for that many seconds; returns how many."""
        gone = (ledger_requests.c.outcome == OPEN) & (ledger_requests.c.seen_at <= time.time() - unseen_for)
        closing = update(ledger_requests).where(gone).values(outcome=_INTERRUPTED, closed_at=ledger_requests.c.seen_at)
        with self._database.write() as session:
            return session.run(closing)

    def usage(self, query: UsageQuery) -> list[dict[str, Any]]:
        """Requests and tokens of a project, summed by the query's groups, newest day first."""
        day = (func.floor(ledger_requests.c.admitted_at / _DAY) * _DAY).label("day")
        columns = {**{name: column.label(name) for name, column in _GROUPS.items()}, "day": day}
        groups = [columns[name] for name in dict.fromkeys(query.group_by)]
        statement = (
            select(
                *groups,
                func.count().label("requests"),
                func.sum(case((ledger_requests.c.outcome == "succeeded", 1), else_=0)).label("successful_requests"),
                *(func.sum(ledger_requests.c[name]).label(name) for name in _TOKENS),
            )
            .where(
                ledger_requests.c.project_id == query.project_id,
                ledger_requests.c.admitted_at >= query.start_time,
                ledger_requests.c.admitted_at < query.end_time,
            )
            .group_by(*groups)
            .order_by(*(group.desc() if group is day else group for group in groups))
        )
        with self._database.read() as session:
            return [_whole(row._asdict()) for row in session.rows(statement)]

    def last_request(self, model: str) -> float | None:
        """When a request for this model was last admitted."""
        query = select(func.max(ledger_requests.c.admitted_at)).where(ledger_requests.c.model == model)
        with self._database.read() as session:
            value = session.value(query)
        return None if value is None else float(value)

    def idle_since(self, models: Sequence[str]) -> float | None:
        """When the last request for any of these models ended; 0: there was none; None: one is under way."""
        of_them = ledger_requests.c.model.in_(models)
        with self._database.read() as session:
            if session.value(select(func.count()).where(of_them, ledger_requests.c.outcome == OPEN)):
                return None
            newest = func.max(func.coalesce(ledger_requests.c.closed_at, ledger_requests.c.admitted_at))
            return float(session.value(select(newest).where(of_them)) or 0.0)

    def request(self, request_id: str) -> dict[str, Any] | None:
        """One request as it stands folded."""
        with self._database.read() as session:
            row = session.first(select(ledger_requests).where(ledger_requests.c.request_id == request_id))
        return dict(row._mapping) if row else None


def _row(event: Mapping[str, Any]) -> dict[str, Any]:
    needed = _NEEDED | set(_DETAILS) if isinstance(event, Mapping) and event.get("kind") == "closed" else _NEEDED
    if not isinstance(event, Mapping) or not event.keys() >= needed or event["kind"] not in KINDS:
        raise InvalidRequest(f"A ledger event needs {', '.join(sorted(needed))}.", param="events")
    return {column.name: event[column.name] for column in ledger_events.c}


def _fold(session: WriteSession, event: Mapping[str, Any]) -> None:
    identity = {name: event[name] for name in _IDENTITY}
    at, closing = event["at"], event["kind"] == "closed"
    fresh = {"outcome": OPEN, "status": 0, "admitted_at": event["admitted_at"], "seen_at": at}
    session.insert_new(ledger_requests, [{**identity, **fresh, **dict.fromkeys(_TOKENS, 0)}])
    table = ledger_requests.c
    changes: dict[str, Any] = {name: _greater(table[name], event[name]) for name in _TOKENS}
    changes["seen_at"] = _greater(table.seen_at, at)
    if closing:
        changes.update({name: event[name] for name in _DETAILS}, closed_at=at)
    session.run(update(ledger_requests).where(table.request_id == event["request_id"]).values(changes))


def _greater(column: Any, value: Any) -> Any:
    return case((column > value, column), else_=value)


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    # PostgreSQL sums to Decimal; the sum of nothing is NULL.
    return {name: value if isinstance(value, str) else int(value or 0) for name, value in row.items()}
