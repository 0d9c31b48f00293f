"""Audit entries of refused sign-ins, rate limited so that repeated attempts cannot fill the log.

The first refusal of an origin is written at once; those that follow within a minute are counted and written as one entry.
All instances together write at most `MAX_ENTRIES_PER_MINUTE` entries per minute into an organization's chain: the rest
waits, and origins beyond the limit share one entry. A count is lost only with a process that is killed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import select

from llmariner.audit import log
from llmariner.errors import PlatformError
from llmariner.platform.database import Database, WriteSession
from llmariner.tenancy.tables import organizations

__all__ = ["MAX_ENTRIES_PER_MINUTE", "RefusedSignIns", "UnauthenticatedSubject"]

MAX_ENTRIES_PER_MINUTE = 20
"""Entries of one organization, by all instances together."""

_MINUTE = 60.0
_MAX_ORIGINS = 100
# Time without attempts to write after a chain had reached its limit.
_BACKOFF_SECONDS = 5.0
_TYPE = "login.failed"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnauthenticatedSubject:
    """The subject of a refused sign-in, as far as a valid token of the issuer identifies it."""

    user_id: str | None = None
    email: str | None = None
    key_id: None = None


@dataclass(frozen=True)
class _AttemptOrigin:
    """`organization_id` None: the default one. `source` None: unknown, or several."""

    organization_id: str | None
    source: str | None
    subject: UnauthenticatedSubject


@dataclass
class _Tally:
    """The unwritten refusals of one origin: the last message, the period, and the count of each error code."""

    message: str = ""
    since: float = 0.0
    until: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Tally) -> None:
        self.message, self.codes = other.message, self.codes + other.codes
        self.since = min(self.since or other.since, other.since)
        self.until = max(self.until, other.until)

    def payload(self, subject: UnauthenticatedSubject) -> dict[str, Any]:
        """The entry's payload: OpenAI's two fields (of the last error), the count and the period."""
        fields: dict[str, Any] = {"id": subject.user_id} if subject.user_id else {}
        fields |= {"error_code": self.codes.most_common(1)[0][0], "error_message": self.message}
        return fields | {"count": self.codes.total(), "since": int(self.since), "until": int(self.until)}


class RefusedSignIns:
    """Counts and records the refused sign-ins of one process. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._pending: dict[_AttemptOrigin, _Tally] = {}
        self._written_at: dict[_AttemptOrigin, float] = {}
        self._backoff_until = 0.0
        self._timer: threading.Timer | None = None
        database.on_close(partial(self.flush, closing=True))

    def record(
        self,
        error: PlatformError,
        *,
        source: str | None,
        subject: UnauthenticatedSubject | None = None,
        organization_id: str | None = None,
    ) -> None:
        """Record a refusal, now or within a minute; never raises. `organization_id` None: the default organization."""
        at, now = time.time(), time.monotonic()
        one = _Tally(error.message, at, at, Counter({error.code or "refused": 1}))
        with self._lock:
            origin = _AttemptOrigin(organization_id, source, subject or UnauthenticatedSubject())
            if origin not in self._pending and len(self._pending) >= _MAX_ORIGINS:
                origin = _AttemptOrigin(organization_id, None, UnauthenticatedSubject())
            self._pending.setdefault(origin, _Tally()).add(one)
            flush_now = now >= self._backoff_until and self._is_due(origin, now)
        if flush_now:
            self.flush()
        else:
            self._schedule_flush()

    def flush(self, *, closing: bool = False) -> None:
        """Write the counts that are due; `closing`: all counts, because the process exits."""
        now = time.monotonic()
        with self._lock:
            due = {origin: tally for origin, tally in self._pending.items() if closing or self._is_due(origin, now)}
            for origin in due:
                del self._pending[origin]
        unwritten: dict[_AttemptOrigin, _Tally] = {}
        for organization_id in {origin.organization_id for origin in due}:
            tallies = {origin: tally for origin, tally in due.items() if origin.organization_id == organization_id}
            try:
                with self._database.write() as session:
                    unwritten |= _write(session, organization_id, tallies, closing=closing)
            except Exception as error:  # a failing log must not replace the error that the client gets
                _log.warning("%d refused sign-ins are not in the audit log yet: %s", len(tallies), error)
                unwritten |= tallies
        with self._lock:
            for origin, tally in unwritten.items():
                self._pending.setdefault(origin, _Tally()).add(tally)
            if unwritten:
                self._backoff_until = time.monotonic() + _BACKOFF_SECONDS
            recent = {origin: at for origin, at in self._written_at.items() if now - at < _MINUTE}
            self._written_at = recent | dict.fromkeys(due.keys() - unwritten.keys(), now)
            waiting = bool(self._pending)
        if waiting and not closing:
            self._schedule_flush()

    def _is_due(self, origin: _AttemptOrigin, now: float) -> bool:
        return now - self._written_at.get(origin, -_MINUTE) >= _MINUTE

    def _schedule_flush(self) -> None:
        """Start the timer that flushes pending counts, unless it runs."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(_MINUTE, self._flush_scheduled)
                self._timer.daemon = True
                self._timer.start()

    def _flush_scheduled(self) -> None:
        with self._lock:
            self._timer = None
        self.flush()


def _write(
    session: WriteSession, organization_id: str | None, tallies: dict[_AttemptOrigin, _Tally], *, closing: bool
) -> dict[_AttemptOrigin, _Tally]:
    """Append as many entries as the limit allows, the last one for all remaining origins; returns what was not written."""
    if organization_id is None:
        organization_id = session.value(select(organizations.c.id).where(organizations.c.is_default))
    if organization_id is None:
        return {}
    recent = log.recent_entries(session, organization_id, _TYPE, seconds=_MINUTE)
    remaining = max(0, MAX_ENTRIES_PER_MINUTE - len(recent))
    # A closing process has no later minute, so it writes again for origins of this minute.
    recently_written: set[Any] = set() if closing else {_origin_of(json.loads(row.actor)) for row in recent}
    candidates = [
        origin
        for origin in tallies
        if (origin.source, origin.subject.user_id, origin.subject.email) not in recently_written
    ]
    selected = [(origin, tallies[origin]) for origin in candidates[:remaining]]
    if 0 < remaining < len(candidates):
        others = _Tally()
        for origin in candidates[remaining - 1 :]:
            others.add(tallies[origin])
        selected[-1] = _AttemptOrigin(organization_id, None, UnauthenticatedSubject()), others
        remaining = len(candidates)
    for origin, tally in selected:
        log.append_entry(
            session,
            origin.subject,
            _TYPE,
            tally.payload(origin.subject),
            organization_id=organization_id,
            source=origin.source or "",
        )
    written = set(candidates[:remaining])
    return {origin: tally for origin, tally in tallies.items() if origin not in written}


def _origin_of(actor: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Source, user id and e-mail of an entry's actor."""
    user = actor["session"]["user"]
    return actor["session"]["ip_address"] or None, user["id"], user["email"]
