"""Users and their role bindings, as far as a caller may see them.

Owners of an organization see its users with all their roles in it; other callers see the users who share a project with
them, with their roles in that project.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, or_, select

from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import organization_users, organizations, project_users, projects, users

__all__ = ["RoleBinding", "User", "Users"]


@dataclass(frozen=True)
class RoleBinding:
    """A role in an organization or project. `project_id` None: in the organization itself. `title`: that of the resource."""

    organization_id: str
    project_id: str | None
    title: str
    role: str


@dataclass(frozen=True)
class User:
    """A person or service account, with the role bindings that the caller may see."""

    id: str
    email: str
    name: str | None
    is_service_account: bool
    hidden: bool
    created_at: int
    bindings: tuple[RoleBinding, ...] = field(default=())


class Users:
    """The users of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, caller: Caller) -> User:
        """The caller's own user; an API key sees only the bindings of its own organization and project."""
        in_organizations = organization_users.c.user_id == caller.user_id
        in_projects = project_users.c.user_id == caller.user_id
        if caller.key_id is not None:
            in_organizations &= organization_users.c.organization_id == caller.organization_id
            in_projects &= project_users.c.project_id == caller.project_id
        with self._database.read() as session:
            row = session.first(select(users).where(users.c.id == caller.user_id))
            assert row is not None, "a caller is a user"
            roles = [
                *_bindings(session, _ORGANIZATIONS.where(in_organizations)),
                *_bindings(session, _PROJECTS.where(in_projects)),
            ]
        return _user_from_row(row, [binding for _, binding in roles])

    def member(self, user_id: str, organization_id: str) -> User:
        """A member of an organization, with the bindings in that organization only."""
        in_organization = (
            organization_users.c.user_id == user_id,
            organization_users.c.organization_id == organization_id,
        )
        in_projects = project_users.c.user_id == user_id, project_users.c.organization_id == organization_id
        with self._database.read() as session:
            row = session.first(select(users).where(users.c.id == user_id))
            assert row is not None, "a member is a user"
            roles = [
                *_bindings(session, _ORGANIZATIONS.where(*in_organization)),
                *_bindings(session, _PROJECTS.where(*in_projects)),
            ]
        return _user_from_row(row, [binding for _, binding in roles])

    def visible_to(self, caller: Caller) -> list[User]:
        """The users that a caller sees in its organization, ordered by e-mail; hidden users are left out."""
        organization_id = caller.organization_id
        with self._database.read() as session:
            if caller.is_owner:
                roles = [
                    *_bindings(session, _ORGANIZATIONS.where(organization_users.c.organization_id == organization_id)),
                    *_bindings(session, _PROJECTS.where(project_users.c.organization_id == organization_id)),
                ]
            else:
                shared = select(project_users.c.project_id).where(project_users.c.user_id == caller.user_id)
                if caller.key_id is not None:
                    shared = shared.where(project_users.c.project_id == caller.project_id)
                in_shared_projects = _PROJECTS.where(
                    project_users.c.organization_id == organization_id, project_users.c.project_id.in_(shared)
                )
                roles = list(_bindings(session, in_shared_projects))
            user_ids = {caller.user_id, *(user_id for user_id, _ in roles)}
            query = select(users).where(users.c.id.in_(user_ids), users.c.hidden.is_(False))
            rows = session.rows(query.order_by(users.c.email))
        bindings: dict[str, list[RoleBinding]] = {row.id: [] for row in rows}
        for user_id, binding in roles:
            if user_id in bindings:
                bindings[user_id].append(binding)
        return [_user_from_row(row, bindings[row.id]) for row in rows]

    def find_id(self, organization_id: str, user: str) -> str | None:
        """The id of the organization's user with that id or e-mail (case-insensitive); None if there is none."""
        query = select(users.c.id).join(organization_users, organization_users.c.user_id == users.c.id)
        named = or_(users.c.id == user, users.c.email == user.strip().lower(), users.c.email == user.strip())
        with self._database.read() as session:
            members = query.where(organization_users.c.organization_id == organization_id, named)
            found = session.value(members.order_by((users.c.id == user).desc()))
        return None if found is None else str(found)


_ORGANIZATIONS = (
    select(organization_users.c.user_id, organization_users.c.organization_id, organizations.c.title)
    .add_columns(organization_users.c.role)
    .join(organizations, organizations.c.id == organization_users.c.organization_id)
    .order_by(organizations.c.created_at, organizations.c.id)
)
_PROJECTS = (
    select(project_users.c.user_id, project_users.c.organization_id, project_users.c.project_id, projects.c.title)
    .add_columns(project_users.c.role)
    .join(projects, projects.c.id == project_users.c.project_id)
    .where(projects.c.archived_at.is_(None))
    .order_by(projects.c.created_at, projects.c.id)
)


def _bindings(session: ReadSession, query: Select[Any]) -> Iterable[tuple[str, RoleBinding]]:
    for row in session.rows(query):
        project_id = row._mapping.get("project_id")
        yield row.user_id, RoleBinding(row.organization_id, project_id, row.title, row.role)


def _user_from_row(row: Row[Any], bindings: list[RoleBinding]) -> User:
    return User(
        id=row.id,
        email=row.email,
        name=row.name,
        is_service_account=row.kind == "service_account",
        hidden=row.hidden,
        created_at=row.created_at,
        bindings=tuple(bindings),
    )
