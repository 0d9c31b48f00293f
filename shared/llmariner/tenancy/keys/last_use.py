"""The time when keys were last used, to the minute. It is informational, so errors are logged and never raised."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import and_, case, or_, update

from llmariner.platform.database import Database
from llmariner.tenancy.tables import api_keys

__all__ = ["LastUse"]

_RESOLUTION_SECONDS = 60
_MAX_CACHED = 50_000
# Keys per statement: SQLite limits the number of terms of a CASE.
_BATCH_SIZE = 500
_log = logging.getLogger(__name__)


class LastUse:
    """Records last use for one process. Thread-safe: two threads may write the same time twice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recorded: dict[str, int] = {}

    def record(self, used: Mapping[str, int]) -> None:
        """Record uses (key id → seconds since 1970); writes each key at most once a minute. Never raises.

        After an error, or on a read-only database, the next attempt follows a minute later.
        """
        recorded = self._recorded
        due = [
            (key, at) for key, at in used.items() if key not in recorded or at >= recorded[key] + _RESOLUTION_SECONDS
        ]
        if not due:
            return
        self._recorded = {**(recorded if len(recorded) < _MAX_CACHED else {}), **dict(due)}
        try:
            for first in range(0, len(due), _BATCH_SIZE):
                self._write(dict(due[first : first + _BATCH_SIZE]))
        except Exception as error:  # a failure must not make the request fail
            _log.warning("when keys were last used could not be noted: %s", error)

    def _write(self, used: dict[str, int]) -> None:
        at = case(used, value=api_keys.c.id)
        # All processes together write a key at most once a minute.
        earlier = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= at - _RESOLUTION_SECONDS)
        with self._database.write() as session:
            session.run(update(api_keys).where(and_(api_keys.c.id.in_(list(used)), earlier)).values(last_used_at=at))
