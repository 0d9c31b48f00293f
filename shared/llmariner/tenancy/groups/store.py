"""Groups in the form of OpenAI's admin API. Their members come from the issuer's tokens, their roles from `group_roles`.

A group has at most one role in the organization and one in each project.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, and_, select, update

from llmariner.audit import log
from llmariner.errors import Conflict, NotFound
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.groups.group_roles import (
    check_can_revoke,
    enqueue_reconciliation,
    grant,
    matches_mapping,
    revoke,
    validate_group_name,
)
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.organizations.queries import Page, Paging, fetch_page
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import group_roles, groups, organization_users, user_groups, users

__all__ = ["Groups"]


class Groups:
    """The groups of one installation. Changes apply within seconds to the people whose newest token has the group."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_organization(self, organization_id: str) -> Sequence[Row[Any]]:
        """All registered groups of an organization, of any issuer, oldest first."""
        query = select(groups).where(groups.c.organization_id == organization_id)
        with self._database.read() as session:
            return session.rows(query.order_by(groups.c.created_at, groups.c.id))

    def get(self, organization_id: str, group_id: str) -> Row[Any]:
        """One group. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id, group_id)

    def create(self, caller: Caller, issuer: str, name: str) -> Row[Any]:
        """Register a group of the issuer by its name there. Conflict if it is registered."""
        validate_group_name(name, "name")
        group_id = new_id("group")
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _check_name_free(session, caller.organization_id, issuer, name)
            columns = {"id": group_id, "organization_id": caller.organization_id, "issuer": issuer, "name": name}
            session.add(groups, created_at=int(time.time()), **columns)
            _log(session, caller, "group.created", group_id, {"data": {"group_name": name}})
            return _load(session, caller.organization_id, group_id)

    def rename(self, caller: Caller, group_id: str, name: str) -> Row[Any]:
        """Follow a group that was renamed at its issuer; its roles move with it. NotFound, Conflict.

        Members by the previous name keep its roles until their next token: removing them would revoke their keys for good.
        """
        validate_group_name(name, "name")
        with self._database.write() as session:
            serialize_mutations(session, caller)
            group = _load(session, caller.organization_id, group_id)
            if name != group.name:
                for row in session.rows(select(group_roles).where(_roles_of(group, group.name))):
                    check_can_revoke(session, caller, row)
                _check_name_free(session, caller.organization_id, group.issuer, name)
                session.run(update(group_roles).where(_roles_of(group, group.name)).values(group_name=name))
                for row in session.rows(select(group_roles).where(_roles_of(group, name))):
                    enqueue_reconciliation(session, row)
                session.run(update(groups).where(groups.c.id == group_id).values(name=name))
                _log(session, caller, "group.updated", group_id, {"changes_requested": {"group_name": name}})
            return _load(session, caller.organization_id, group_id)

    def delete(self, caller: Caller, group_id: str) -> list[str]:
        """Delete a group and its roles; returns the ids of the deleted group roles. NotFound otherwise."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            group = _load(session, caller.organization_id, group_id)
            deleted_roles = session.rows(
                select(group_roles).where(_roles_of(group, group.name)).order_by(group_roles.c.id)
            )
            for row in deleted_roles:
                revoke(session, caller, row)
            session.run(groups.delete().where(groups.c.id == group_id))
            _log(session, caller, "group.deleted", group_id, {})
        return [row.id for row in deleted_roles]

    def members(self, group: Row[Any], paging: Paging) -> Page:
        """The people of the organization whose newest token has the group, ordered by id."""
        with self._database.read() as session:
            return fetch_page(session, _member_query(group), users.c.id, paging)

    def member(self, group: Row[Any], user_id: str) -> Row[Any]:
        """One member of a group. NotFound otherwise."""
        with self._database.read() as session:
            found = session.first(_member_query(group).where(users.c.id == user_id))
        if found is None:
            raise NotFound(f"No user with id '{user_id}' in this group, as far as tokens said.", param="user_id")
        return found

    def role(self, group: Row[Any], project_id: str | None) -> Row[Any] | None:
        """The group role in the organization, or in a project of it; None if there is none."""
        with self._database.read() as session:
            return session.first(select(group_roles).where(matches_mapping(_mapping(group, project_id))))

    def in_project(self, organization_id: str, project_id: str) -> Sequence[Row[Any]]:
        """The groups with a role in a project, oldest first, with the columns `role` and `given_at`."""
        joined = groups.join(
            group_roles,
            and_(
                group_roles.c.organization_id == groups.c.organization_id,
                group_roles.c.issuer == groups.c.issuer,
                group_roles.c.group_name == groups.c.name,
            ),
        )
        query = select(groups, group_roles.c.role, group_roles.c.created_at.label("given_at")).select_from(joined)
        condition = and_(groups.c.organization_id == organization_id, group_roles.c.project_id == project_id)
        with self._database.read() as session:
            return session.rows(query.where(condition).order_by(group_roles.c.created_at, groups.c.id))

    def grant_role(self, caller: Caller, group_id: str, role: str, project_id: str | None) -> Row[Any]:
        """Grant a group a role; it replaces the previous one. Raises as `GroupRoles.create`, but no Conflict."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            mapping = _mapping(_load(session, caller.organization_id, group_id), project_id)
            before = session.first(select(group_roles).where(matches_mapping(mapping)))
            if before is not None:
                revoke(session, caller, before)
            return grant(session, caller, mapping, role)

    def revoke_role(self, caller: Caller, group_id: str, project_id: str | None) -> None:
        """Revoke a group's role. NotFound if it has none."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            group = _load(session, caller.organization_id, group_id)
            found = session.first(select(group_roles).where(matches_mapping(_mapping(group, project_id))))
            if found is None:
                raise NotFound(f"The group '{group.name}' has no role there.", param="group_id")
            revoke(session, caller, found)


def _load(session: ReadSession, organization_id: str, group_id: str) -> Row[Any]:
    query = select(groups).where(groups.c.id == group_id, groups.c.organization_id == organization_id)
    found = session.first(query)
    if found is None:
        raise NotFound(f"No group with id '{group_id}' in this organization.", param="group_id")
    return found


def _member_query(group: Row[Any]) -> Select[Any]:
    joined = users.join(organization_users, organization_users.c.user_id == users.c.id)
    joined = joined.join(user_groups, user_groups.c.user_id == users.c.id)
    condition = and_(
        organization_users.c.organization_id == group.organization_id,
        user_groups.c.issuer == group.issuer,
        user_groups.c.name == group.name,
        users.c.hidden.is_(False),
    )
    return select(users.c.id, users.c.email, users.c.name).select_from(joined).where(condition)


def _mapping(group: Row[Any], project_id: str | None) -> dict[str, Any]:
    columns = {"organization_id": group.organization_id, "issuer": group.issuer, "group_name": group.name}
    return {**columns, "project_id": project_id}


def _roles_of(group: Row[Any], name: str) -> Any:
    return and_(
        group_roles.c.organization_id == group.organization_id,
        group_roles.c.issuer == group.issuer,
        group_roles.c.group_name == name,
    )


def _check_name_free(session: ReadSession, organization_id: str, issuer: str, name: str) -> None:
    one = and_(groups.c.organization_id == organization_id, groups.c.issuer == issuer, groups.c.name == name)
    if session.first(select(groups.c.id).where(one)) is not None:
        raise Conflict(
            f"The group '{name}' is known already; list them with GET /v1/organization/groups.", param="name"
        )


def _log(session: Any, caller: Caller, action: str, group_id: str, details: dict[str, Any]) -> None:
    log.append_entry(session, caller, action, {"id": group_id, **details}, organization_id=caller.organization_id)
