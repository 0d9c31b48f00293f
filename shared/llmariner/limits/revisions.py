"""Revisions of keys, models, limits and prices, by which gateway instances invalidate their caches.

One statement reads all of them, at most once a second, however many instances poll.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import func, select

from llmariner.limits.tables import rule_changes
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.revisions import revisions
from llmariner.usage.tables import charge_policies, prices

__all__ = ["LatestRevisions", "Revisions", "record_rule_changes"]

_CACHE_SECONDS = 1.0
_RETAINED_REVISIONS = 1000


def record_rule_changes(session: WriteSession, revision: int, subjects: Iterable[tuple[str, str]]) -> None:
    """Record the subjects (kind, id) whose rules a revision of `limits` changes: instances invalidate only those."""
    rows = [{"revision": revision, "subject": kind, "subject_id": id_} for kind, id_ in sorted(set(subjects))]
    session.insert_if_absent(rule_changes, rows)
    session.run(rule_changes.delete().where(rule_changes.c.revision <= revision - _RETAINED_REVISIONS))


class LatestRevisions(NamedTuple):
    """Numbers that rise with every change; `prices` also rises when a price with a later start becomes valid."""

    keys: int
    models: int
    limits: int
    prices: float


class Revisions:
    """The latest revisions of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._cached: LatestRevisions | None = None
        self._cached_at = 0.0
        self._subjects: tuple[int, int, tuple[tuple[str, str], ...] | None] = (-1, -1, None)

    def latest(self) -> LatestRevisions:
        """The revisions as of at most one second ago."""
        with self._lock:
            now = time.monotonic()
            if self._cached is None or now - self._cached_at > _CACHE_SECONDS:
                self._cached, self._cached_at = self._read(), now
            return self._cached

    def changed_subjects_since(self, rules: int) -> tuple[tuple[str, str], ...] | None:
        """(kind, id) of the subjects whose rules changed after a revision of `limits`. None: the record is incomplete."""
        latest = self.latest().limits
        if latest <= rules < latest + _RETAINED_REVISIONS:
            return ()  # another instance of this function read a later revision
        if not latest - _RETAINED_REVISIONS < rules < latest:
            return None
        since, until, found = self._subjects
        if (since, until) != (rules, latest):  # gateway instances send the same request at about the same time
            found = self._read_changed_subjects(rules, latest)
            self._subjects = rules, latest, found
        return found

    def _read_changed_subjects(self, rules: int, latest: int) -> tuple[tuple[str, str], ...] | None:
        with self._database.read() as session:
            rows = session.rows(select(rule_changes).where(rule_changes.c.revision.between(rules + 1, latest)))
        # The previous release raises the revision without recording subjects.
        if len({row.revision for row in rows}) < latest - rules:
            return None
        return tuple(sorted({(row.subject, row.subject_id) for row in rows}))

    def _read(self) -> LatestRevisions:
        now = time.time()
        begun = [
            select(func.max(each.c.valid_from)).where(each.c.valid_from <= now).scalar_subquery().label(each.name)
            for each in (prices, charge_policies)
        ]
        with self._database.read() as session:
            rows = session.rows(select(revisions.c.name, revisions.c.value, *begun))
        found = {row.name: row.value for row in rows}
        # Setting a price creates a revision, so without a revision there is no price. The start time alone would not rise
        # with one that starts no later than the newest, by another clock.
        price = 0.0
        if rows:
            price = max(rows[0].prices or 0.0, rows[0].charge_policies or 0.0) + found.get("prices", 0)
        return LatestRevisions(found.get("api_keys", 0), found.get("models", 0), found.get("limits", 0), price)
