"""The store of quotas: set, read and deleted, with the audit entry and the event of each change.

A row is what was asked for; the capacity port makes it hold. The port checks it before the row is written and applies it
afterwards; a failure in between is an error to the caller, who sends the same again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update

from llmariner.audit import log
from llmariner.errors import NotFound, PermissionDenied
from llmariner.platform.capacity import Capacity, QuotaLimit
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.quotas.events import DELETED, UPDATED
from llmariner.quotas.quota import Quota, Subject, check_limits, limit_columns
from llmariner.quotas.tables import quotas
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["Quotas"]


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
        quota has as nominal. Raises InvalidRequest, PermissionDenied, Conflict, Unavailable.
        """
        check_limits(changes)
        with self._database.read() as session:
            found = _find(session, subject)
        self._capacity().check(subject, _merged(found, changes))

        def store(session: WriteSession) -> Quota:
            if not operator:
                _check_share(session, subject, changes)
            now = int(time.time())
            blank = {"organization_id": subject.organization_id, "project_id": subject.project_id, "created_at": now}
            session.insert_if_absent(quotas, [{"subject_id": subject.id, **blank, "updated_at": now}])
            values = {**limit_columns(changes), "updated_at": now}
            session.run(update(quotas).where(quotas.c.subject_id == subject.id).values(**values))
            quota = _find(session, subject)
            assert quota is not None
            _record(session, actor, subject, UPDATED, _shown(quota.limits))
            return quota

        quota = self._database.transact(store)
        self._capacity().apply(subject, quota.limits)
        return quota

    def find(self, subject: Subject) -> Quota | None:
        """The quota of a project or an organization."""
        with self._database.read() as session:
            return _find(session, subject)

    def of_projects(self, ids: Sequence[str]) -> dict[str, Quota]:
        """The quotas of those of the projects that have one."""
        with self._database.read() as session:
            rows = session.rows(select(quotas).where(quotas.c.subject_id.in_(ids))) if ids else ()
        return {row.subject_id: Quota.from_row(row) for row in rows}

    def remove(self, actor: Caller, subject: Subject) -> None:
        """Delete a quota: what it held back may start. NotFound, Conflict, Unavailable."""

        def delete(session: WriteSession) -> None:
            if session.run(quotas.delete().where(quotas.c.subject_id == subject.id)) == 0:
                raise NotFound(f"The {subject.kind} '{subject.id}' has no quota.", param="id")
            _record(session, actor, subject, DELETED, {})

        with self._database.read() as session:
            if _find(session, subject) is None:
                raise NotFound(f"The {subject.kind} '{subject.id}' has no quota.", param="id")
        self._capacity().apply(subject, None)
        self._database.transact(delete)


def _find(session: ReadSession, subject: Subject) -> Quota | None:
    row = session.first(select(quotas).where(quotas.c.subject_id == subject.id))
    return None if row is None else Quota.from_row(row)


def _merged(found: Quota | None, changes: Mapping[str, QuotaLimit | None]) -> dict[str, QuotaLimit]:
    merged = {**(found.limits if found else {}), **changes}
    return {resource: limit for resource, limit in merged.items() if limit is not None}


def _check_share(session: WriteSession, subject: Subject, changes: Mapping[str, QuotaLimit | None]) -> None:
    """Raises PermissionDenied where an organization's owner gives its projects more than the organization has."""
    # The lock makes owners who share out at the same time wait for each other.
    own = session.first(select(quotas).where(quotas.c.subject_id == subject.organization_id).with_for_update())
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
        given = session.value(select(func.sum(quotas.c[f"{resource}_nominal"])).where(*others)) or 0
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
