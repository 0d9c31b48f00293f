"""What members of an issuer's groups are here: one row gives one group one role, in an organisation or a project of it."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.caller import Caller
from llmariner.tenancy.scopes import ORGANIZATION_ROLES, PROJECT_ROLES
from llmariner.tenancy.tables import custom_roles, group_roles, projects

__all__ = ["GroupRoles"]


class GroupRoles:
    """The mappings of one installation. They take effect when somebody of the group next comes, within seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_organization(self, organization_id: str) -> list[Row[Any]]:
        """All of an organisation, oldest first."""
        query = select(group_roles).where(group_roles.c.organization_id == organization_id)
        with self._database.read() as session:
            return list(session.rows(query.order_by(group_roles.c.created_at, group_roles.c.id)))

    def create(self, caller: Caller, *, issuer: str, group: str, role: str, project_id: str | None) -> Row[Any]:
        """Map a group. InvalidRequest for a role that is none there, NotFound for a project, Conflict where it is mapped."""
        if not 1 <= len(group) <= 256:
            raise InvalidRequest("'group' must be 1 to 256 characters long.", param="group")
        organization_id = caller.organization_id
        mapping = {"organization_id": organization_id, "issuer": issuer, "group_name": group, "project_id": project_id}
        row_id = new_id("group_role")
        with self._database.write() as session:
            if project_id is not None:
                _check_project(session, organization_id, project_id)
            _check_role(session, organization_id, project_id, role)
            same = [group_roles.c[name] == value for name, value in mapping.items()]
            if session.first(select(group_roles.c.id).where(*same)) is not None:
                raise Conflict(f"The group '{group}' has a role there already; delete that one first.", param="group")
            session.add(group_roles, id=row_id, role=role, created_at=int(time.time()), **mapping)
            _log(session, caller, "group.role.created", row_id, {"group": group, "role": role}, project_id)
            row = session.first(select(group_roles).where(group_roles.c.id == row_id))
        assert row is not None
        return row

    def delete(self, caller: Caller, row_id: str) -> None:
        """End a mapping: what it gave ends when each member of the group next comes. NotFound."""
        one = (group_roles.c.id == row_id) & (group_roles.c.organization_id == caller.organization_id)
        with self._database.write() as session:
            found = session.first(select(group_roles).where(one))
            if found is None:
                raise NotFound(f"No role of a group with id '{row_id}' in this organization.", param="id")
            session.run(group_roles.delete().where(one))
            payload = {"group": found.group_name, "role": found.role}
            _log(session, caller, "group.role.deleted", row_id, payload, found.project_id)


def _check_project(session: ReadSession, organization_id: str, project_id: str) -> None:
    live = select(projects.c.id).where(
        projects.c.id == project_id, projects.c.organization_id == organization_id, projects.c.archived_at.is_(None)
    )
    if session.first(live) is None:
        raise NotFound(f"No project with id '{project_id}' in this organization.", param="project_id")


def _check_role(session: ReadSession, organization_id: str, project_id: str | None, role: str) -> None:
    known = ORGANIZATION_ROLES if project_id is None else PROJECT_ROLES
    if role in known:
        return
    own = select(custom_roles.c.id).where(
        custom_roles.c.id == role,
        custom_roles.c.organization_id == organization_id,
        or_(custom_roles.c.project_id.is_(None), custom_roles.c.project_id == project_id),
    )
    if session.first(own) is None:
        where = "an organization" if project_id is None else "a project"
        raise InvalidRequest(
            f"'role' must be one of {', '.join(sorted(known))} in {where}, or the id of a role that you made.",
            param="role",
        )


def _log(session: Any, caller: Caller, type_: str, row_id: str, data: dict[str, str], project_id: str | None) -> None:
    log.add(
        session,
        caller,
        type_,
        {"id": row_id, "data": data},
        organization_id=caller.organization_id,
        project_id=project_id,
    )
