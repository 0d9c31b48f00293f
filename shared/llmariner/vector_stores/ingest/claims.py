"""Claims on the rows of files: one process at a time works on a file, and each event causes at most one slice of work.

`retry_at` of a row in progress says when the sweep may let the work continue. A process that claims the row moves it to the
end of the claim, and one that hands the work on to a later time; that value identifies the claim or the event. A claim is
lost when the row has another value, when the file is no longer in progress, or when the file or its store is gone.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Row, and_, func, select, update

from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.events import FILE_CREATED, FILE_PARSED, add_file_event
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.tables import vector_store_files, vector_stores

__all__ = [
    "CLAIM_SECONDS",
    "MAX_ATTEMPTS",
    "Claim",
    "ClaimLost",
    "acquire",
    "continue_later",
    "hand_on",
    "working_on",
]

CLAIM_SECONDS = 180.0
"""Longer than a delivery to the consumers may take."""

MAX_ATTEMPTS = 8
"""Claims of a step without progress, such as by processes that a document kills."""

_EVENT_SECONDS = 60.0
_LONGEST_EVENT_SECONDS = 900.0
"""After that time the sweep takes an event for lost: the first one soon, later ones after twice the time each."""

_RETRY_SECONDS = 30.0
_LONGEST_RETRY_SECONDS = 900.0
_UNEXPECTED = "An unexpected error of the platform interrupted the work on the file. Its operator finds it in the logs."

_files = vector_store_files.c


class ClaimLost(Exception):
    """The file was removed or cancelled, or another process works on it. Nothing more may be stored for it."""


@dataclass(frozen=True)
class Claim:
    """A file that this process works on. `row`: as `rows.lock_live_file` returns it, when it was claimed."""

    row: Row[Any]
    until: float

    @property
    def was_completed(self) -> bool:
        """Its chunks were in the index before: it may wait, but not fail."""
        return self.row.completed_at is not None

    @property
    def originator(self) -> Originator:
        """Who pays: who added the file; if its index is derived again, who asked for the rebuild, or the project alone."""
        row = self.row
        if not self.was_completed:
            return Originator(row.user_id, row.project_id, row.organization_id, row.key_id)
        if row.rebuild_at is None or row.rebuild_user_id is None:
            return Originator.of_project(row.project_id, row.organization_id)
        return Originator(row.rebuild_user_id, row.project_id, row.organization_id, row.rebuild_key_id)

    def check(self, session: ReadSession) -> Row[Any]:
        """The current row, locked until the transaction ends. ClaimLost."""
        row = lock_live_file(session, self.row.id)
        if row is None or row.status != "in_progress" or row.retry_at != self.until:
            raise ClaimLost
        return row

    def store(self, session: WriteSession, **values: Any) -> Row[Any]:
        """Change the row; returns it as it was. ClaimLost."""
        row = self.check(session)
        session.run(update(vector_store_files).where(_files.id == row.id).values(**values))
        return row

    def pause(self, database: Database, *, code: str, message: str, seconds: float) -> None:
        """Let the sweep continue the file after some seconds. The row says why it waits. ClaimLost."""
        with database.write() as session:
            # Waiting for a limit, a budget or a model is no failed attempt.
            attempts = max(0, self.check(session).attempts - 1)
            waits = {"error_code": code[:32], "error_message": message}
            self.store(session, retry_at=session.now() + seconds, attempts=attempts, **waits)

    def retry(self, database: Database, message: str) -> None:
        """Let the sweep try again, later with each attempt; the attempt counts. The row says why it waits. ClaimLost."""
        with database.write() as session:
            attempts = max(1, self.check(session).attempts)
            later = session.now() + min(_RETRY_SECONDS * attempts, _LONGEST_RETRY_SECONDS)
            self.store(session, retry_at=later, error_code="server_error", error_message=message)


@contextlib.contextmanager
def working_on(database: Database, claim: Claim) -> Iterator[None]:
    """For the work on a claimed file: after an unexpected error, which is raised, its row says so, and it is tried again.

    The event that is delivered again finds the claim and does nothing.
    """
    try:
        yield
    except ClaimLost:
        raise
    except Exception:
        # The database may be what failed. The sweep then continues the file once the claim has ended.
        with contextlib.suppress(Exception):
            claim.retry(database, _UNEXPECTED)
        raise


def acquire(database: Database, row_id: str, step: str, event_retry_at: float | None) -> Claim | None:
    """Claim a file for a step. None if there is nothing to do: the event is old, or somebody works on the file.

    `event_retry_at`: the field `retry_at` of the event; None: it has none.
    """

    def claim(session: WriteSession) -> Claim | None:
        row = lock_live_file(session, row_id)
        if row is None or row.status != "in_progress" or row.step != step:
            return None
        now = session.now()
        # An event that was only late is as good as the one that the sweep wrote in its place.
        is_ours = row.retry_at == event_retry_at or bool(row.unclaimed_events)
        if row.retry_at is not None and not is_ours and row.retry_at > now:
            return None
        until = now + CLAIM_SECONDS + random.random()
        claimed = {"retry_at": until, "attempts": row.attempts + 1, "unclaimed_events": None}
        session.run(update(vector_store_files).where(_files.id == row_id).values(**claimed))
        current = lock_live_file(session, row_id)
        assert current is not None
        return Claim(current, until)

    return database.transact(claim)


def hand_on(session: WriteSession, row: Row[Any], type_: str, **values: Any) -> None:
    """Change a row in progress and write the event that lets its work continue. `row`: locked by the transaction.

    The value `unclaimed_events` (0): the events that the sweep has written for this work, with this one.
    """
    values.setdefault("unclaimed_events", 0)
    seconds = min(_EVENT_SECONDS * 2 ** min(values["unclaimed_events"], 10), _LONGEST_EVENT_SECONDS)
    retry_at = session.now() + seconds + random.random()
    session.run(update(vector_store_files).where(_files.id == row.id).values(retry_at=retry_at, **values))
    said = {**row._mapping, **values}
    progress = {name: said[name] for name in ("next_chunk", "chunk_count")} if type_ == FILE_PARSED else {}
    add_file_event(session, type_, row, **progress, retry_at=retry_at)


def continue_later(database: Database, *, until: float | None = None, limit: int = 500) -> int:
    """Write events for files whose time to continue has come, or whose event was lost; returns the number. For the sweep.

    Projects take turns: one with many files does not delay another's. It ends at `until` (monotonic; None: after `limit`).
    """
    continued = 0
    while True:
        ids = _due(database, limit)
        for row_id in ids:
            if until is not None and time.monotonic() > until:
                return continued
            continued += database.transact(partial(_continue, row_id=row_id))
        if until is None or len(ids) < limit:
            return continued


def _due(database: Database, limit: int) -> list[str]:
    """The files to continue, those of each project from the longest due on."""
    live = and_(_files.deleted_at.is_(None), vector_stores.c.deleted_at.is_(None), vector_stores.c.expired_at.is_(None))
    turn = func.row_number().over(partition_by=_files.project_id, order_by=_files.retry_at)
    with database.read() as session:
        now = session.now()
        due = (_files.retry_at <= now) | (_files.retry_at.is_(None) & (_files.created_at <= int(now - _EVENT_SECONDS)))
        query = select(_files.id).join(vector_stores, vector_stores.c.id == _files.vector_store_id)
        query = query.where(_files.status == "in_progress", live, due).order_by(turn, _files.retry_at, _files.id)
        return [row.id for row in session.rows(query.limit(limit))]


def _continue(session: WriteSession, row_id: str) -> int:
    row, now = lock_live_file(session, row_id), session.now()
    if row is None or row.status != "in_progress" or (row.retry_at is not None and row.retry_at > now):
        return 0
    events = (row.unclaimed_events or 0) + 1
    hand_on(session, row, FILE_CREATED if row.step == "parse" else FILE_PARSED, unclaimed_events=events)
    return 1
