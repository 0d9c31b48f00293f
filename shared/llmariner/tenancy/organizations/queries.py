"""Read-only, paged queries of the admin API: projects, people, service accounts, keys, invitations and roles.

Pages are ordered by id, which is the order of creation, newest first by default. A cursor is valid whether or not a row
with that id exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select

from llmariner.errors import NotFound
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.tables import (
    api_keys,
    custom_roles,
    invites,
    is_human,
    organization_users,
    project_users,
    projects,
    users,
)

__all__ = ["KeyAccess", "OrganizationQueries", "Page", "Paging", "fetch_page"]

Page: TypeAlias = tuple[Sequence[Row[Any]], bool]
"""The rows of a page, and whether more follow."""
KeyAccess: TypeAlias = Literal["active", "inactive", "any"]


class Paging:
    """A page request: up to `limit` rows after the id `after`, ordered `desc` (newest first) or `asc`."""

    def __init__(self, after: str | None = None, limit: int = 20, order: str = "desc") -> None:
        self.after = after or None
        self.limit = limit
        self.order = order


class OrganizationQueries:
    """The admin API's queries of organizations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def projects(self, organization_id: str, paging: Paging, *, archived: bool = False) -> Page:
        """The projects of an organization; archived ones only on request."""
        query = select(projects).where(projects.c.organization_id == organization_id)
        if not archived:
            query = query.where(projects.c.archived_at.is_(None))
        with self._database.read() as session:
            return fetch_page(session, query, projects.c.id, paging)

    def project(self, organization_id: str, project_id: str) -> Row[Any]:
        """One project, archived or not. NotFound otherwise."""
        with self._database.read() as session:
            return _load_project(session, organization_id, project_id)

    def project_users(self, organization_id: str, project_id: str, paging: Paging) -> Page:
        """The people of a project."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            query = _member_query(project_id, is_human).where(users.c.hidden.is_(False))
            return fetch_page(session, query, users.c.id, paging)

    def project_user(self, organization_id: str, project_id: str, user_id: str) -> Row[Any]:
        """One person of a project. NotFound otherwise."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            row = session.first(_member_query(project_id, is_human).where(users.c.id == user_id))
        return _found_or_raise(row, f"No user with id '{user_id}' in the project '{project_id}'.", "user_id")

    def service_accounts(self, organization_id: str, project_id: str, paging: Paging) -> Page:
        """The service accounts of a project."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            query = _member_query(project_id, users.c.kind == "service_account")
            return fetch_page(session, query, users.c.id, paging)

    def service_account(self, organization_id: str, project_id: str, account_id: str) -> Row[Any]:
        """One service account of a project. NotFound otherwise."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            row = session.first(
                _member_query(project_id, users.c.kind == "service_account").where(users.c.id == account_id)
            )
        message = f"No service account with id '{account_id}' in the project '{project_id}'."
        return _found_or_raise(row, message, "service_account_id")

    def project_keys(self, organization_id: str, project_id: str, paging: Paging, access: KeyAccess = "any") -> Page:
        """The unrevoked keys of a project; `access` filters by whether their user still has access to the project."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            query = _key_query(organization_id).where(api_keys.c.project_id == project_id)
            if access != "any":
                query = query.where(_HAS_ACCESS if access == "active" else ~_HAS_ACCESS)
            return fetch_page(session, query, api_keys.c.id, paging)

    def project_key(self, organization_id: str, project_id: str, key_id: str) -> Row[Any]:
        """One unrevoked key of a project. NotFound otherwise."""
        with self._database.read() as session:
            _load_project(session, organization_id, project_id)
            of_it = and_(api_keys.c.project_id == project_id, api_keys.c.id == key_id)
            row = session.first(_key_query(organization_id).where(of_it))
        return _found_or_raise(row, f"No API key with id '{key_id}' in the project '{project_id}'.", "api_key_id")

    def admin_keys(self, organization_id: str, paging: Paging) -> Page:
        """The unrevoked admin keys of an organization."""
        with self._database.read() as session:
            query = _key_query(organization_id).where(api_keys.c.kind == "admin")
            return fetch_page(session, query, api_keys.c.id, paging)

    def admin_key(self, organization_id: str, key_id: str) -> Row[Any]:
        """One unrevoked admin key. NotFound otherwise."""
        with self._database.read() as session:
            row = session.first(_key_query(organization_id).where(api_keys.c.kind == "admin", api_keys.c.id == key_id))
        return _found_or_raise(row, f"No admin API key with id '{key_id}' in your organization.", "key_id")

    def people(self, organization_id: str, paging: Paging, emails: Sequence[str] = ()) -> Page:
        """The people of an organization; `emails` filters, case-insensitive."""
        query = _people_query(organization_id)
        if emails:
            query = query.where(users.c.email.in_([email.lower() for email in emails]))
        with self._database.read() as session:
            return fetch_page(session, query, users.c.id, paging)

    def person(self, organization_id: str, user_id: str) -> Row[Any]:
        """One person of an organization. NotFound otherwise."""
        with self._database.read() as session:
            row = session.first(_people_query(organization_id).where(users.c.id == user_id))
        return _found_or_raise(row, f"No user with id '{user_id}' in your organization.", "user_id")

    def person_with_email(self, organization_id: str, email: str) -> Row[Any]:
        """The person of an organization with that address, case-insensitive. NotFound otherwise."""
        with self._database.read() as session:
            row = session.first(_people_query(organization_id).where(users.c.email == email.strip().lower()))
        return _found_or_raise(row, f"No user '{email}' in your organization. Invite them first.", "email")

    def memberships(self, organization_id: str, user_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
        """In which live projects these are: by user, rows of project id, title and role."""
        columns = (project_users.c.user_id, project_users.c.role, projects.c.id, projects.c.title)
        query = select(*columns).join(projects, projects.c.id == project_users.c.project_id)
        query = query.where(
            project_users.c.organization_id == organization_id,
            project_users.c.user_id.in_(user_ids),
            projects.c.archived_at.is_(None),
        )
        found: dict[str, list[Row[Any]]] = {user_id: [] for user_id in user_ids}
        with self._database.read() as session:
            for row in session.rows(query.order_by(projects.c.created_at, projects.c.id)):
                found[row.user_id].append(row)
        return found

    def invites(self, organization_id: str, paging: Paging) -> Page:
        """The invitations of an organization, without revoked ones."""
        with self._database.read() as session:
            return fetch_page(session, _invite_query(organization_id), invites.c.id, paging)

    def invite(self, organization_id: str, invite_id: str) -> Row[Any]:
        """One invitation. NotFound otherwise."""
        with self._database.read() as session:
            row = session.first(_invite_query(organization_id).where(invites.c.id == invite_id))
        return _found_or_raise(row, f"No invitation with id '{invite_id}' in your organization.", "invite_id")

    def roles(self, organization_id: str, project_id: str | None) -> Sequence[Row[Any]]:
        """The custom roles of an organization, or of one of its projects; oldest first."""
        query = select(custom_roles).where(custom_roles.c.organization_id == organization_id)
        query = query.where(custom_roles.c.project_id == project_id)
        with self._database.read() as session:
            return session.rows(query.order_by(custom_roles.c.created_at, custom_roles.c.id))


def fetch_page(session: ReadSession, query: Select[Any], identity: ColumnElement[str], paging: Paging) -> Page:
    """A page of a query, ordered by `identity`, the column of ids."""
    ascending = paging.order == "asc"
    if paging.after is not None:
        query = query.where(identity > paging.after if ascending else identity < paging.after)
    rows = session.rows(query.order_by(identity.asc() if ascending else identity.desc()).limit(paging.limit + 1))
    return rows[: paging.limit], len(rows) > paging.limit


def _found_or_raise(row: Row[Any] | None, message: str, param: str) -> Row[Any]:
    if row is None:
        raise NotFound(message, param=param)
    return row


def _load_project(session: ReadSession, organization_id: str, project_id: str) -> Row[Any]:
    query = select(projects).where(projects.c.id == project_id, projects.c.organization_id == organization_id)
    return _found_or_raise(
        session.first(query),
        f"No project with id '{project_id}' in your organization. List them with GET /v1/organization/projects.",
        "project_id",
    )


def _member_query(project_id: str, of_kind: ColumnElement[bool]) -> Select[Any]:
    columns = (users.c.id, users.c.email, users.c.name, users.c.created_at)
    joined = select(*columns, project_users.c.role, project_users.c.created_at.label("added_at"))
    joined = joined.join_from(project_users, users, users.c.id == project_users.c.user_id)
    return joined.where(project_users.c.project_id == project_id, of_kind)


def _people_query(organization_id: str) -> Select[Any]:
    last_used = select(func.max(api_keys.c.last_used_at)).where(
        api_keys.c.user_id == users.c.id, api_keys.c.organization_id == organization_id
    )
    columns = (users.c.id, users.c.email, users.c.name, users.c.created_at, organization_users.c.role)
    joined = select(
        *columns, organization_users.c.created_at.label("added_at"), last_used.scalar_subquery().label("last_used_at")
    )
    joined = joined.join_from(organization_users, users, users.c.id == organization_users.c.user_id)
    people = and_(is_human, users.c.hidden.is_(False))
    return joined.where(organization_users.c.organization_id == organization_id, people)


def _key_query(organization_id: str) -> Select[Any]:
    columns = (
        *api_keys.c,
        users.c.email,
        users.c.kind.label("user_kind"),
        users.c.name.label("user_name"),
        users.c.created_at.label("user_created_at"),
        organization_users.c.role.label("organization_role"),
        project_users.c.role.label("project_role"),
    )
    in_organization = and_(
        organization_users.c.user_id == api_keys.c.user_id,
        organization_users.c.organization_id == api_keys.c.organization_id,
    )
    in_project = and_(
        project_users.c.user_id == api_keys.c.user_id, project_users.c.project_id == api_keys.c.project_id
    )
    joined = api_keys.join(users, users.c.id == api_keys.c.user_id)
    joined = joined.outerjoin(organization_users, in_organization).outerjoin(project_users, in_project)
    live = and_(api_keys.c.organization_id == organization_id, api_keys.c.revoked_at.is_(None))
    return select(*columns).select_from(joined).where(live)


_HAS_ACCESS = or_(organization_users.c.role == "owner", project_users.c.role.is_not(None))


def _invite_query(organization_id: str) -> Select[Any]:
    return select(invites).where(invites.c.organization_id == organization_id, invites.c.revoked_at.is_(None))
