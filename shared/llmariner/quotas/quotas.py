"""The store of quotas: set, read and deleted, with the audit entry and the event of each change.

Rows are what was asked for; the capacity port makes them hold. The port checks a change before its row is written. Then it
applies the quotas of the organization as they are, and again if they were changed meanwhile, so that of changes at the same
time the last one holds. A failure in between is an error to the caller; whether it sends the same again or was killed, the
sweep has applied what is not in effect, and what projects left that were archived (`request_settlements`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import exists, func, or_, select, update

from llmariner.audit import log
from llmariner.errors import NotFound, PermissionDenied, Unavailable
from llmariner.platform.capacity import RESOURCES, Capacity, OrganizationLimits, QuotaLimit
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.quotas.events import DELETED, SETTLEMENT_REQUESTED, UPDATED
from llmariner.quotas.quota import OPERATOR, ORGANIZATION, Quota, Subject, check_limits, limit_columns
from llmariner.quotas.tables import quota_revisions, quotas
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["Quotas"]


_AT_ONCE = 50
_ROUNDS = 10
"""How often quotas are applied that are changed again meanwhile."""


class Quotas:
    """The quotas of one installation."""

    def __init__(self, database: Database, capacity: Callable[[], Capacity]) -> None:
        self._database = database
        self._capacity = capacity

    def put(
        self, actor: Caller, subject: Subject, changes: Mapping[str, QuotaLimit | None], *, operator: bool
    ) -> Quota:
        """Set limits of resources; None removes one, others stay. It holds within seconds and ends no workload.

        `operator`: the actor runs the installation. Another one shares out among projects what the organization's own
        quota has as nominal, and can't change what the operator set. Raises InvalidRequest, PermissionDenied, Conflict,
        Unavailable.
        """
        check_limits(changes)
        with self._database.read() as session:
            _check_owner(_find(session, subject), operator=operator)
            planned = _with_changes(_load(session, subject.organization_id), subject, changes)
        self._capacity().check(planned, [resource for resource, limit in changes.items() if limit is not None])

        def store(session: WriteSession) -> Quota:
            _advance(session, subject.organization_id)
            _check_owner(_find(session, subject), operator=operator)
            if not operator:
                _check_share(session, subject, changes)
            now = int(time.time())
            blank = {"organization_id": subject.organization_id, "project_id": subject.project_id, "created_at": now}
            session.insert_if_absent(quotas, [{"subject_id": subject.id, **blank, "updated_at": now}])
            values = {**limit_columns(changes), "updated_at": now, "set_by": OPERATOR if operator else ORGANIZATION}
            session.run(update(quotas).where(quotas.c.subject_id == subject.id).values(**values))
            quota = _find(session, subject)
            assert quota is not None
            _record(session, actor, subject, UPDATED, _shown(quota.limits))
            return quota

        quota = self._database.transact(store)
        self.settle(subject.organization_id)
        return quota

    def remove(self, actor: Caller, subject: Subject, *, operator: bool) -> None:
        """Delete a quota: what it held back may start. NotFound, PermissionDenied, Conflict, Unavailable.

        The row stays, without limits, until that holds: who is refused or killed half-way sends the same again.
        """

        def clear(session: WriteSession) -> None:
            _advance(session, subject.organization_id)
            found = _find(session, subject)
            if found is None:
                raise NotFound(f"The {subject.kind} '{subject.id}' has no quota.", param="id")
            _check_owner(found, operator=operator)
            if found.limits:
                session.run(
                    update(quotas)
                    .where(quotas.c.subject_id == subject.id)
                    .values(**limit_columns(dict.fromkeys(RESOURCES)))
                )
                _record(session, actor, subject, DELETED, {})

        def delete(session: WriteSession) -> None:
            _advance(session, subject.organization_id)
            found = _find(session, subject)
            if found is not None and not found.limits:
                session.run(quotas.delete().where(quotas.c.subject_id == subject.id))

        self._database.transact(clear)
        self.settle(subject.organization_id)
        self._database.transact(delete)

    def find(self, subject: Subject) -> Quota | None:
        """The quota of a project or an organization."""
        with self._database.read() as session:
            return _find(session, subject)

    def of_projects(self, ids: Sequence[str]) -> dict[str, Quota]:
        """The quotas of those of the projects that have one."""
        with self._database.read() as session:
            rows = session.rows(select(quotas).where(quotas.c.subject_id.in_(ids))) if ids else ()
        return {row.subject_id: Quota.from_row(row) for row in rows}

    def request_settlements(self) -> int:
        """Have the quotas of some organizations applied that are not in effect; returns of how many. For the sweep."""
        with self._database.write() as session:
            ids = [row.organization_id for row in session.rows(_unsettled())]
            for id_ in ids:
                data = {"id": id_, "organization_id": id_, "project_id": None}
                outbox.add(session, SETTLEMENT_REQUESTED, f"quotas/{id_}", data)
        return len(ids)

    def settle(self, organization_id: str) -> None:
        """Apply the quotas of an organization until none was changed meanwhile. Idempotent. Conflict, Unavailable."""
        own = quota_revisions.c.organization_id == organization_id
        for _ in range(_ROUNDS):
            with self._database.read() as session:
                began, found = int(session.now()), _load(session, organization_id)
            complete = self._capacity().apply(found)
            with self._database.write() as session:
                if _revision(session, organization_id) == found.revision:
                    if complete:
                        values = {"applied_revision": found.revision, "applied_at": began}
                        session.run(update(quota_revisions).where(own).values(**values))
                    return
        raise Unavailable("The organization's quotas are being changed by others. Send the same again in a moment.")


def _unsettled() -> Any:
    """Organizations with quotas that are not in effect, or with projects that were archived since: some at random."""
    revision, project = quota_revisions.c, projects.c
    archived = exists().where(
        project.organization_id == revision.organization_id,
        project.id == quotas.c.project_id,
        project.archived_at >= revision.applied_at,
    )
    due = or_(revision.applied_revision.is_(None), revision.applied_revision != revision.revision, archived)
    return select(revision.organization_id).where(due).order_by(func.random()).limit(_AT_ONCE)


def _find(session: ReadSession, subject: Subject) -> Quota | None:
    row = session.first(select(quotas).where(quotas.c.subject_id == subject.id))
    return None if row is None else Quota.from_row(row)


def _revision(session: ReadSession, organization_id: str) -> int:
    query = select(quota_revisions.c.revision).where(quota_revisions.c.organization_id == organization_id)
    return int(session.value(query) or 0)


def _advance(session: WriteSession, organization_id: str) -> None:
    """Begin a change of quotas of an organization: others wait until it is committed."""
    session.insert_if_absent(quota_revisions, [{"organization_id": organization_id, "revision": 0}])
    own = quota_revisions.c.organization_id == organization_id
    session.run(update(quota_revisions).where(own).values(revision=quota_revisions.c.revision + 1))


def _load(session: ReadSession, organization_id: str) -> OrganizationLimits:
    """The quotas of an organization. The revision is read first: what is newer than it is applied once more."""
    revision = _revision(session, organization_id)
    rows = session.rows(select(quotas).where(quotas.c.organization_id == organization_id))
    query = select(projects.c.id, projects.c.archived_at).where(projects.c.organization_id == organization_id)
    alive = {row.id: row.archived_at is None for row in session.rows(query)}
    found = {quota.subject.project_id: quota.limits for quota in map(Quota.from_row, rows) if quota.limits}
    own = found.pop(None, {})
    of_projects = {id_: limits for id_, limits in found.items() if id_ is not None and alive.get(id_)}
    return OrganizationLimits(organization_id, revision, own, of_projects, frozenset(alive))


def _with_changes(
    found: OrganizationLimits, subject: Subject, changes: Mapping[str, QuotaLimit | None]
) -> OrganizationLimits:
    """The quotas as they will be after a change."""
    before = found.limits if subject.project_id is None else found.projects.get(subject.project_id, {})
    merged = {resource: limit for resource, limit in {**before, **changes}.items() if limit is not None}
    revision = found.revision + 1
    if subject.project_id is None:
        return replace(found, revision=revision, limits=merged)
    of_projects = {id_: limits for id_, limits in {**found.projects, subject.project_id: merged}.items() if limits}
    return replace(found, revision=revision, projects=of_projects)


def _check_owner(found: Quota | None, *, operator: bool) -> None:
    """Raises PermissionDenied where an owner of an organization would change what the operator set."""
    if found is not None and found.limits and found.by_operator and not operator:
        raise PermissionDenied(
            "An owner of the default organization, who runs the installation, has set this quota, and only one of them can "
            "change or delete it: ask there.",
            param="id",
            code="quota_set_by_operator",
        )


def _check_share(session: WriteSession, subject: Subject, changes: Mapping[str, QuotaLimit | None]) -> None:
    """Raises PermissionDenied where an organization's owner gives its projects more than the organization has."""
    own = session.first(select(quotas).where(quotas.c.subject_id == subject.organization_id))
    shares = Quota.from_row(own).limits if own is not None else {}
    alive = select(projects.c.id).where(projects.c.archived_at.is_(None))
    others = (
        quotas.c.organization_id == subject.organization_id,
        quotas.c.project_id.in_(alive),
        quotas.c.project_id != subject.project_id,
    )
    for resource, limit in changes.items():
        if limit is None or limit.nominal == 0:
            continue
        # Not summed in the database, whose numbers may be too small for that.
        nominal = quotas.c[f"{resource}_nominal"]
        given = sum(row[0] for row in session.rows(select(nominal).where(*others, nominal.is_not(None))))
        share = shares[resource].nominal if resource in shares else 0
        if given + limit.nominal > share:
            raise PermissionDenied(
                f"'{resource}.nominal' of all projects together may be what the organization's own quota has. Send less, "
                "or 0 with a 'borrowing_limit', or ask who runs the installation for a larger quota of the organization.",
                param=f"{resource}.nominal",
                code="organization_quota_exceeded",
            )


def _record(session: WriteSession, actor: Caller, subject: Subject, event: str, limits: dict[str, Any]) -> None:
    payload = {"id": subject.id, "subject": subject.kind, **limits}
    organization_id, project_id = subject.organization_id, subject.project_id
    owner = {"organization_id": organization_id, "project_id": project_id}
    outbox.add(session, event, f"quotas/{subject.id}", {**payload, **owner})
    type_ = "quota.updated" if event == UPDATED else "quota.deleted"
    log.append_entry(session, actor, type_, payload, organization_id=organization_id, project_id=project_id)


def _shown(limits: Mapping[str, QuotaLimit]) -> dict[str, Any]:
    return {
        "limits": {
            resource: {"nominal": limit.nominal, "borrowing_limit": limit.borrowing}
            for resource, limit in limits.items()
        }
    }
