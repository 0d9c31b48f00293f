"""What gateways must hear of, in one statement however many of them ask: whether keys, models, limits or prices changed."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from sqlalchemy import func, select

from llmariner.platform.database import Database
from llmariner.platform.database.revisions import revisions
from llmariner.usage.tables import prices

__all__ = ["Newest", "Revisions"]

_FRESH_SECONDS = 1.0


class Newest(NamedTuple):
    """Numbers that rise with every change; `prices`: when the newest price in force began, seconds since 1970."""

    keys: int
    models: int
    limits: int
    prices: float


class Revisions:
    """The newest revisions of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen: Newest | None = None
        self._seen_at = 0.0

    def newest(self) -> Newest:
        """As of at most a second ago."""
        with self._lock:
            now = time.monotonic()
            if self._seen is None or now - self._seen_at > _FRESH_SECONDS:
                self._seen, self._seen_at = self._read(), now
            return self._seen

    def _read(self) -> Newest:
        begun = select(func.max(prices.c.valid_from)).where(prices.c.valid_from <= time.time()).scalar_subquery()
        with self._database.read() as session:
            rows = session.rows(select(revisions.c.name, revisions.c.value, begun.label("begun")))
        found = {row.name: row.value for row in rows}
        # Whoever sets a price makes a revision: where there is none, there is no price.
        price = float(rows[0].begun or 0.0) if rows else 0.0
        return Newest(found.get("api_keys", 0), found.get("models", 0), found.get("limits", 0), price)
