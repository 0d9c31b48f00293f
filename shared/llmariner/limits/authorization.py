"""Authorization of access to limits and budgets.

Limits and budgets of a project and of its keys require the scope in that project; those of users, of admin keys and of the
organization require it in the whole organization.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import select

from llmariner.errors import NotFound, PermissionDenied
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, caller_in_project
from llmariner.tenancy.tables import api_keys, organization_users

__all__ = ["authorize_subject", "filter_visible"]


class _HasSubject(Protocol):
    @property
    def subject(self) -> Subject: ...


RuleT = TypeVar("RuleT", bound=_HasSubject)


def authorize_subject(database: Database, caller: Caller, kind: str, id_: str, scope: str) -> Subject:
    """Return the subject if the caller holds `scope` on it.

    Raises NotFound if the caller cannot see the subject, PermissionDenied if only the scope is missing.
    """
    organization_id = caller.organization_id
    if kind == "organization":
        caller_in_organization(database, caller, id_, scope)
        return Subject(id_, kind, id_)
    subject = Subject(organization_id, kind, id_)
    if kind == "project":
        caller_in_project(database, caller, organization_id, id_, scope)
    elif kind == "key":
        project_id = _key_project_id(database, subject)
        if project_id is None:
            caller_in_organization(database, caller, organization_id, scope)
        else:
            caller_in_project(database, caller, organization_id, project_id, scope)
    else:
        caller_in_organization(database, caller, organization_id, scope)
        member = select(organization_users.c.user_id).where(
            organization_users.c.organization_id == organization_id, organization_users.c.user_id == id_
        )
        with database.read() as session:
            if session.value(member) is None:
                raise NotFound(f"No user with id '{id_}' in your organization.", param="subject_id")
    return subject


def filter_visible(database: Database, caller: Caller, rows: Sequence[RuleT], scope: str) -> list[RuleT]:
    """Those of an organization's limits or budgets that the caller may see."""
    try:
        caller_in_organization(database, caller, caller.organization_id, scope)
        return list(rows)
    except PermissionDenied:
        pass
    keys = _key_ids_in_project(
        database, caller.project_id, [row.subject.id for row in rows if row.subject.kind == "key"]
    )
    own = {("project", caller.project_id), *(("key", key_id) for key_id in keys)}
    return [row for row in rows if (row.subject.kind, row.subject.id) in own]


def _key_project_id(database: Database, subject: Subject) -> str | None:
    """The project of a live key; None for an admin key. Raises NotFound."""
    query = select(api_keys.c.project_id).where(
        api_keys.c.id == subject.id,
        api_keys.c.organization_id == subject.organization_id,
        api_keys.c.revoked_at.is_(None),
    )
    with database.read() as session:
        row = session.first(query)
    if row is None:
        raise NotFound(f"No API key with id '{subject.id}' that you can see.", param="subject_id")
    project_id: str | None = row.project_id
    return project_id


def _key_ids_in_project(database: Database, project_id: str | None, key_ids: Iterable[str]) -> list[str]:
    query = select(api_keys.c.id).where(api_keys.c.project_id == project_id, api_keys.c.id.in_(list(key_ids)))
    with database.read() as session:
        return [row.id for row in session.rows(query)]
