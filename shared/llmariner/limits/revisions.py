"""What gateways must hear of, in one statement however many of them ask: whether keys, models, limits or prices changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import func, select

from llmariner.limits.tables import rule_changes
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.revisions import revisions
from llmariner.usage.tables import prices

__all__ = ["Newest", "Revisions", "record_rule_changes"]

_FRESH_SECONDS = 1.0
_KEPT = 1000


def record_rule_changes(session: WriteSession, revision: int, subjects: Iterable[tuple[str, str]]) -> None:
    """Note whose rules (kinds and ids) a revision of `limits` changes, so that gateways ask anew about those alone."""
    rows = [{"revision": revision, "subject": kind, "subject_id": id_} for kind, id_ in sorted(set(subjects))]
    session.insert_if_absent(rule_changes, rows)
    session.run(rule_changes.delete().where(rule_changes.c.revision <= revision - _KEPT))


class Newest(NamedTuple):
    """Numbers that rise with every change; `prices`: also when a price that was set for later comes into force."""

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
        self._subjects: tuple[int, int, tuple[tuple[str, str], ...] | None] = (-1, -1, None)

    def newest(self) -> Newest:
        """As of at most a second ago."""
        with self._lock:
            now = time.monotonic()
            if self._seen is None or now - self._seen_at > _FRESH_SECONDS:
                self._seen, self._seen_at = self._read(), now
            return self._seen

    def subjects_since(self, rules: int) -> tuple[tuple[str, str], ...] | None:
        """Whose rules changed after a revision of `limits`, up to the newest. None: not all of that is known."""
        newest = self.newest().limits
        if newest <= rules < newest + _KEPT:
            return ()  # another copy of this function has looked a moment later
        if not newest - _KEPT < rules < newest:
            return None
        since, until, found = self._subjects
        if (since, until) != (rules, newest):  # gateways ask the same at the same time
            found = self._subjects_between(rules, newest)
            self._subjects = rules, newest, found
        return found

    def _subjects_between(self, rules: int, newest: int) -> tuple[tuple[str, str], ...] | None:
        with self._database.read() as session:
            rows = session.rows(select(rule_changes).where(rule_changes.c.revision.between(rules + 1, newest)))
        # The release before raises the revision, and does not say for whom.
        if len({row.revision for row in rows}) < newest - rules:
            return None
        return tuple(sorted({(row.subject, row.subject_id) for row in rows}))

    def _read(self) -> Newest:
        begun = select(func.max(prices.c.valid_from)).where(prices.c.valid_from <= time.time()).scalar_subquery()
        with self._database.read() as session:
            rows = session.rows(select(revisions.c.name, revisions.c.value, begun.label("begun")))
        found = {row.name: row.value for row in rows}
        # Whoever sets a price makes a revision: where there is none, there is no price. The beginning alone would not rise
        # with a price that begins before the newest one did, as one set for a moment ago.
        price = float(rows[0].begun or 0.0) + found.get("prices", 0) if rows else 0.0
        return Newest(found.get("api_keys", 0), found.get("models", 0), found.get("limits", 0), price)
