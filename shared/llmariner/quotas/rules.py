"""The quotas that hold for a project, read from the database at most once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from sqlalchemy import select

from llmariner.platform.capacity import QuotaRule
from llmariner.platform.database import Database
from llmariner.quotas.quota import Quota
from llmariner.quotas.tables import quotas
from llmariner.tenancy.tables import projects

__all__ = ["ProjectRules"]

_SECONDS = 1.0


class ProjectRules:
    """The rules of each project; safe in any thread. One read serves everything that waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._rules: dict[str, list[QuotaRule]] = {}

    def of(self, project_id: str | None) -> Sequence[QuotaRule]:
        """The rules of a project, at most a second old; none for what belongs to no project."""
        if project_id is None:
            return ()
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= _SECONDS:
                self._rules, self._read_at = self._load(), now
            return self._rules.get(project_id, ())

    def _load(self) -> dict[str, list[QuotaRule]]:
        with self._database.read() as session:
            found = [Quota.from_row(row) for row in session.rows(select(quotas))]
            shared = [each.subject.organization_id for each in found if each.subject.project_id is None]
            query = select(projects.c.id, projects.c.organization_id).where(projects.c.organization_id.in_(shared))
            members = session.rows(query) if shared else ()
        of_organization: dict[str, set[str]] = {}
        for row in members:
            of_organization.setdefault(row.organization_id, set()).add(row.id)
        return _by_project(_rule(each, of_organization) for each in found)


def _rule(quota: Quota, of_organization: dict[str, set[str]]) -> QuotaRule:
    subject = quota.subject
    if subject.project_id is not None:
        return QuotaRule("its project", frozenset({subject.project_id}), quota.limits)
    return QuotaRule("its organization", frozenset(of_organization.get(subject.id, ())), quota.limits)


def _by_project(rules: Iterable[QuotaRule]) -> dict[str, list[QuotaRule]]:
    found: dict[str, list[QuotaRule]] = {}
    for rule in rules:
        for project_id in rule.projects:
            found.setdefault(project_id, []).append(rule)
    return found
