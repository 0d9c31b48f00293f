"""When keys were last used: to the minute, and of use to people only, so that nothing fails for its sake."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import and_, case, or_, update

from llmariner.platform.database import Database
from llmariner.tenancy.tables import api_keys

__all__ = ["LastUse"]

_RESOLUTION_SECONDS = 60
_MAX_CACHED = 50_000
# Of one statement: SQLite takes so many terms of a CASE.
_BATCH_SIZE = 500
_log = logging.getLogger(__name__)


class LastUse:
    """Notes it for one process. Safe to share between threads: two may write the same once more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recorded: dict[str, int] = {}

    def record(self, used: Mapping[str, int]) -> None:
        """Key id → seconds since 1970. However often it is told, a key is written once in a minute; never raises.

        A database that only reads, or does not answer, is told again when a minute is over.
        """
        noted = self._recorded
        news = [(key, at) for key, at in used.items() if key not in noted or at >= noted[key] + _RESOLUTION_SECONDS]
        if not news:
            return
        self._recorded = {**(noted if len(noted) < _MAX_CACHED else {}), **dict(news)}
        try:
            for first in range(0, len(news), _BATCH_SIZE):
                self._write(dict(news[first : first + _BATCH_SIZE]))
        except Exception as error:  # whatever it is, the key is as good as before
            _log.warning("when keys were last used could not be noted: %s", error)

    def _write(self, used: dict[str, int]) -> None:
        at = case(used, value=api_keys.c.id)
        # However many processes tell of a key, it is written as often as by one.
        earlier = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= at - _RESOLUTION_SECONDS)
        with self._database.write() as session:
            session.run(update(api_keys).where(and_(api_keys.c.id.in_(list(used)), earlier)).values(last_used_at=at))
