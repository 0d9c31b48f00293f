"""Group roles: each row grants one role to the members of an issuer's group, in an organization or one of its projects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, select

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import (
    check_can_grant_organization_role,
    check_can_grant_project_role,
    check_can_revoke_organization_role,
    check_can_revoke_project_role,
    has_full_owner_rights,
)
from llmariner.tenancy.tables import group_roles, groups, organization_users, project_users, projects, user_groups

__all__ = [
    "GROUP_ROLE_CHANGED",
    "GroupRoles",
    "check_can_revoke",
    "enqueue_reconciliation",
    "grant",
    "matches_mapping",
    "revoke",
    "validate_group_name",
]

GROUP_ROLE_CHANGED = "ai.llmariner.group_role.changed.v1"


class GroupRoles:
    """The group roles of one installation.

    A change applies at the next request with a token, and within seconds to all people whose newest token has the group,
    including their keys.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_organization(self, organization_id: str) -> list[Row[Any]]:
        """All group roles of an organization, oldest first."""
        query = select(group_roles).where(group_roles.c.organization_id == organization_id)
        with self._database.read() as session:
            return list(session.rows(query.order_by(group_roles.c.created_at, group_roles.c.id)))

    def create(self, caller: Caller, *, issuer: str, group: str, role: str, project_id: str | None) -> Row[Any]:
        """Grant a role to a group.

        InvalidRequest for an unknown role, PermissionDenied for one that the caller may not grant, NotFound for an unknown
        project, Conflict if the group has a role there.
        """
        validate_group_name(group, "group")
        organization_id = caller.organization_id
        mapping = {"organization_id": organization_id, "issuer": issuer, "group_name": group, "project_id": project_id}
        with self._database.write() as session:
            serialize_mutations(session, caller)
            if session.first(select(group_roles.c.id).where(matches_mapping(mapping))) is not None:
                raise Conflict(f"The group '{group}' has a role there already; delete that one first.", param="group")
            return grant(session, caller, mapping, role)

    def delete(self, caller: Caller, row_id: str) -> None:
        """Revoke a group role, and the memberships that it granted. NotFound otherwise."""
        one = (group_roles.c.id == row_id) & (group_roles.c.organization_id == caller.organization_id)
        with self._database.write() as session:
            serialize_mutations(session, caller)
            found = session.first(select(group_roles).where(one))
            if found is None:
                raise NotFound(f"No role of a group with id '{row_id}' in this organization.", param="id")
            revoke(session, caller, found)


def validate_group_name(name: str, param: str) -> None:
    """InvalidRequest if the value cannot be the name of a group."""
    if not 1 <= len(name) <= 256 or not name.isprintable():
        raise InvalidRequest(f"'{param}' must be 1 to 256 printable characters long.", param=param)


def matches_mapping(mapping: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition on rows of `group_roles`: organization, issuer, group and project."""
    return and_(*(group_roles.c[name] == value for name, value in mapping.items()))


def grant(session: WriteSession, caller: Caller, mapping: Mapping[str, Any], role: str) -> Row[Any]:
    """Insert a group role and register the group. Raises as `GroupRoles.create`, but no Conflict."""
    organization_id, project_id = mapping["organization_id"], mapping["project_id"]
    if project_id is not None:
        _check_project(session, organization_id, project_id)
        check_can_grant_project_role(session, caller, organization_id, project_id, role)
    else:
        check_can_grant_organization_role(session, caller, organization_id, role)
    now, row_id, name = int(time.time()), new_id("group_role"), mapping["group_name"]
    columns = {"organization_id": organization_id, "issuer": mapping["issuer"], "name": name}
    session.insert_if_absent(groups, [{"id": new_id("group"), "created_at": now, **columns}])
    session.add(group_roles, id=row_id, role=role, created_at=now, **mapping)
    row = session.first(select(group_roles).where(group_roles.c.id == row_id))
    assert row is not None
    enqueue_reconciliation(session, row)
    _log(session, caller, "group.role.created", row_id, {"group": name, "role": role}, project_id)
    return row


def check_can_revoke(session: ReadSession, caller: Caller, row: Row[Any]) -> None:
    """PermissionDenied for a group role (a row of `group_roles`) with more scopes than the caller holds there.

    Also if its removal could end the membership of a person who holds more than the caller in a project.
    """
    if has_full_owner_rights(caller):
        return
    if row.project_id is None:
        check_can_revoke_organization_role(session, caller, row.organization_id, row.role)
    else:
        check_can_revoke_project_role(session, caller, row.organization_id, row.project_id, row.role)
    for assignment in session.rows(_project_roles_at_risk(row)):
        check_can_revoke_project_role(session, caller, row.organization_id, assignment.project_id, assignment.role)


def _project_roles_at_risk(row: Row[Any]) -> Select[Any]:
    """The project roles, granted by people, of members whose organization membership depends on this and other groups."""
    people = (
        project_users.join(
            organization_users,
            and_(
                organization_users.c.user_id == project_users.c.user_id,
                organization_users.c.organization_id == project_users.c.organization_id,
            ),
        )
        .join(user_groups, user_groups.c.user_id == project_users.c.user_id)
        .join(projects, projects.c.id == project_users.c.project_id)
    )
    return (
        select(project_users.c.project_id, project_users.c.role)
        .distinct()
        .select_from(people)
        .where(
            project_users.c.organization_id == row.organization_id,
            project_users.c.of_group.is_(False),
            organization_users.c.of_group,
            user_groups.c.issuer == row.issuer,
            user_groups.c.name == row.group_name,
            projects.c.archived_at.is_(None),
        )
    )


def revoke(session: WriteSession, caller: Caller, row: Row[Any]) -> None:
    """Delete a group role. PermissionDenied as `check_can_revoke`."""
    check_can_revoke(session, caller, row)
    session.run(group_roles.delete().where(group_roles.c.id == row.id))
    enqueue_reconciliation(session, row)
    payload = {"group": row.group_name, "role": row.role}
    _log(session, caller, "group.role.deleted", row.id, payload, row.project_id)


def enqueue_reconciliation(session: WriteSession, row: Row[Any]) -> None:
    """Emit the event that makes `membership_sync` reconcile the memberships of the group's members, in batches.

    `row` is a row of `group_roles`, which may be deleted before the event is handled.
    """
    details = {"id": row.id, "organization_id": row.organization_id, "project_id": row.project_id}
    group = {"issuer": row.issuer, "group": row.group_name, "after": ""}
    outbox.add(session, GROUP_ROLE_CHANGED, f"group_roles/{row.id}", {**details, **group})


def _check_project(session: ReadSession, organization_id: str, project_id: str) -> None:
    live = select(projects.c.id).where(
        projects.c.id == project_id, projects.c.organization_id == organization_id, projects.c.archived_at.is_(None)
    )
    if session.first(live) is None:
        raise NotFound(f"No project with id '{project_id}' in this organization.", param="project_id")


def _log(session: Any, caller: Caller, type_: str, row_id: str, data: dict[str, str], project_id: str | None) -> None:
    log.append_entry(
        session,
        caller,
        type_,
        {"id": row_id, "data": data},
        organization_id=caller.organization_id,
        project_id=project_id,
    )
