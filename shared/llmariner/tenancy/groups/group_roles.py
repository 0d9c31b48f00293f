"""What members of an issuer's groups are here: one row gives one group one role, in an organization or a project of it."""

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
    """The mappings of one installation. They count at the next request with a token, and within seconds for everybody whom
    the last token said to be of the group, keys included."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_organization(self, organization_id: str) -> list[Row[Any]]:
        """All of an organization, oldest first."""
        query = select(group_roles).where(group_roles.c.organization_id == organization_id)
        with self._database.read() as session:
            return list(session.rows(query.order_by(group_roles.c.created_at, group_roles.c.id)))

    def create(self, caller: Caller, *, issuer: str, group: str, role: str, project_id: str | None) -> Row[Any]:
        """Map a group. InvalidRequest for an unknown role, PermissionDenied for one that the caller may not give, NotFound
        for a project, Conflict where the group is mapped already."""
        validate_group_name(group, "group")
        organization_id = caller.organization_id
        mapping = {"organization_id": organization_id, "issuer": issuer, "group_name": group, "project_id": project_id}
        with self._database.write() as session:
            serialize_mutations(session, caller)
            if session.first(select(group_roles.c.id).where(matches_mapping(mapping))) is not None:
                raise Conflict(f"The group '{group}' has a role there already; delete that one first.", param="group")
            return grant(session, caller, mapping, role)

    def delete(self, caller: Caller, row_id: str) -> None:
        """End a mapping, and what it gave. NotFound."""
        one = (group_roles.c.id == row_id) & (group_roles.c.organization_id == caller.organization_id)
        with self._database.write() as session:
            serialize_mutations(session, caller)
            found = session.first(select(group_roles).where(one))
            if found is None:
                raise NotFound(f"No role of a group with id '{row_id}' in this organization.", param="id")
            revoke(session, caller, found)


def validate_group_name(said: str, param: str) -> None:
    """InvalidRequest for what is no group's name."""
    if not 1 <= len(said) <= 256 or not said.isprintable():
        raise InvalidRequest(f"'{param}' must be 1 to 256 printable characters long.", param=param)


def matches_mapping(mapping: Mapping[str, Any]) -> ColumnElement[bool]:
    """Which row of `group_roles` that is: by organization, issuer, group and project."""
    return and_(*(group_roles.c[name] == value for name, value in mapping.items()))


def grant(session: WriteSession, caller: Caller, mapping: Mapping[str, Any], role: str) -> Row[Any]:
    """Map a group that is not mapped there, and make it known. Raises as `GroupRoles.create`."""
    organization_id, project_id = mapping["organization_id"], mapping["project_id"]
    if project_id is not None:
        _check_project(session, organization_id, project_id)
        check_can_grant_project_role(session, caller, organization_id, project_id, role)
    else:
        check_can_grant_organization_role(session, caller, organization_id, role)
    now, row_id, name = int(time.time()), new_id("group_role"), mapping["group_name"]
    known = {"organization_id": organization_id, "issuer": mapping["issuer"], "name": name}
    session.insert_if_absent(groups, [{"id": new_id("group"), "created_at": now, **known}])
    session.add(group_roles, id=row_id, role=role, created_at=now, **mapping)
    row = session.first(select(group_roles).where(group_roles.c.id == row_id))
    assert row is not None
    enqueue_reconciliation(session, row)
    _log(session, caller, "group.role.created", row_id, {"group": name, "role": role}, project_id)
    return row


def check_can_revoke(session: ReadSession, caller: Caller, row: Row[Any]) -> None:
    """PermissionDenied for a mapping (a row of `group_roles`) that gives more than the caller holds there.

    Also where somebody may leave the organization with it who holds more than the caller in a project.
    """
    if has_full_owner_rights(caller):
        return
    if row.project_id is None:
        check_can_revoke_organization_role(session, caller, row.organization_id, row.role)
    else:
        check_can_revoke_project_role(session, caller, row.organization_id, row.project_id, row.role)
    for place in session.rows(_places_of_group(row)):
        check_can_revoke_project_role(session, caller, row.organization_id, place.project_id, place.role)


def _places_of_group(row: Row[Any]) -> Select[Any]:
    """What people gave, in projects, to those whom groups alone keep in the organization, this group among them."""
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
    """End a mapping that is there. PermissionDenied for a role above the caller."""
    check_can_revoke(session, caller, row)
    session.run(group_roles.delete().where(group_roles.c.id == row.id))
    enqueue_reconciliation(session, row)
    payload = {"group": row.group_name, "role": row.role}
    _log(session, caller, "group.role.deleted", row.id, payload, row.project_id)


def enqueue_reconciliation(session: WriteSession, row: Row[Any]) -> None:
    """Have everybody of a mapping's group be what their groups are now: `group_settlement` does so, in slices.

    `row` is one of `group_roles`; it may be gone by then.
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
