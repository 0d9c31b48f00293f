"""Custom roles of an organization: named sets of scopes, for the whole organization or for one of its projects."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.mutations import record_mutation, serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import (
    check_can_revoke_organization_role,
    check_can_revoke_project_role,
    has_full_owner_rights,
    held_scopes,
)
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, OWNER_SCOPES, PROJECT_ROLES, with_implied
from llmariner.tenancy.tables import (
    custom_roles,
    group_roles,
    invites,
    organization_users,
    project_users,
    projects,
    users,
)

__all__ = ["CustomRole", "CustomRoles"]

_MAX_DESCRIPTION_LENGTH = 2000
# Per organization, or per project: names are compared while all mutations of the installation wait for the lock.
_MAX_ROLES = 1000


@dataclass(frozen=True)
class CustomRole:
    """A custom role. `project_id` None: it can be assigned in the whole organization."""

    id: str
    organization_id: str
    project_id: str | None
    name: str
    description: str
    scopes: frozenset[str]
    created_at: int


class CustomRoles:
    """The custom roles of one installation. A caller acts in its own organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, caller: Caller, name: str, scopes: Iterable[str], *, description: str = "", project_id: str | None = None
    ) -> CustomRole:
        """Create a role. Conflict if the name is in use; PermissionDenied for scopes that the caller does not hold.

        InvalidRequest at the maximum number of roles.
        """
        organization_id, role_id = caller.organization_id, new_id("role")
        text = _validate_description(description)
        with self._database.write() as session:
            serialize_mutations(session, caller)
            requested = _validate_scopes(session, caller, scopes, project_id)
            if project_id is not None:
                _check_project(session, organization_id, project_id)
            _check_not_full(session, organization_id, project_id)
            unused_name = _validate_unused_name(session, organization_id, project_id, name)
            row = {"id": role_id, "organization_id": organization_id, "project_id": project_id, "name": unused_name}
            stored = {"description": text, "scopes": " ".join(sorted(requested))}
            session.add(custom_roles, **row, **stored, created_at=int(time.time()))
            _record(session, caller, "role.created", role_id, project_id, {"data": {"role_name": unused_name}})
        return self.get(organization_id, role_id)

    def get(self, organization_id: str, role_id: str) -> CustomRole:
        """One role. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id, role_id)

    def all(self, organization_id: str, *, project_id: str | None = None) -> list[CustomRole]:
        """The roles for the whole organization, or for one project; oldest first."""
        query = select(custom_roles).where(custom_roles.c.organization_id == organization_id)
        query = query.where(custom_roles.c.project_id == project_id)
        with self._database.read() as session:
            rows = session.rows(query.order_by(custom_roles.c.created_at, custom_roles.c.id))
        return [_role_from_row(row) for row in rows]

    def update(
        self,
        caller: Caller,
        role_id: str,
        *,
        name: str | None = None,
        scopes: Iterable[str] | None = None,
        description: str | None = None,
    ) -> CustomRole:
        """Change a role; None leaves a field as it is. The permissions of its holders change within seconds.

        PermissionDenied for a role with scopes that the caller lacks: under another name it could be granted by mistake.
        """
        organization_id = caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            role = _load(session, organization_id, role_id)
            _check_can_revoke(session, caller, role)
            values: dict[str, Any] = {}
            if name is not None and validators.validate_title(name, "name") != role.name:
                values["name"] = _validate_unused_name(session, organization_id, role.project_id, name, exclude=role_id)
            if description is not None:
                values["description"] = _validate_description(description)
            if scopes is not None:
                values["scopes"] = " ".join(sorted(_validate_scopes(session, caller, scopes, role.project_id)))
            if values:
                session.run(update(custom_roles).where(custom_roles.c.id == role_id).values(**values))
                bump_revision(session, user_ids=_holders(session, role_id))
                _record(session, caller, "role.updated", role_id, role.project_id, {"changes_requested": values})
        return self.get(organization_id, role_id)

    def delete(self, caller: Caller, role_id: str) -> None:
        """Delete a role. InvalidRequest while a user, invitation or group refers to it; the error lists them."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            role = _load(session, caller.organization_id, role_id)
            _check_can_revoke(session, caller, role)
            usages = _usages(session, role_id)
            if any(usages.values()):
                listed = "; ".join(f"{what}: {', '.join(holders[:10])}" for what, holders in usages.items() if holders)
                raise InvalidRequest(
                    f"The role '{role.name}' is in use ({listed}). Give them another role first.",
                    param="role_id",
                    code="in_use",
                    details={"in_the_way": usages},
                )
            session.run(delete(custom_roles).where(custom_roles.c.id == role_id))
            _record(session, caller, "role.deleted", role_id, role.project_id, {})


def _check_can_revoke(session: ReadSession, caller: Caller, role: CustomRole) -> None:
    if role.project_id is None:
        check_can_revoke_organization_role(session, caller, role.organization_id, role.id)
    else:
        check_can_revoke_project_role(session, caller, role.organization_id, role.project_id, role.id)


def _validate_scopes(
    session: ReadSession, caller: Caller, scopes: Iterable[str], project_id: str | None
) -> frozenset[str]:
    requested = frozenset(scopes)
    possible = OWNER_SCOPES if project_id is None else PROJECT_ROLES["owner"]
    if not requested:
        raise InvalidRequest("A role needs one scope at least.", param="scopes")
    if unknown := requested - possible:
        raise InvalidRequest(
            f"A role {'here' if project_id is None else 'in a project'} can't hold {', '.join(sorted(unknown))}. "
            f"Possible scopes: {', '.join(sorted(possible))}.",
            param="scopes",
        )
    if has_full_owner_rights(caller):
        return requested
    if missing := with_implied(requested) - held_scopes(session, caller, caller.organization_id, project_id):
        raise PermissionDenied(
            f"You don't hold the scopes {', '.join(sorted(missing))} there, so no role of yours can."
        )
    return requested


def _check_not_full(session: ReadSession, organization_id: str, project_id: str | None) -> None:
    existing = select(func.count()).where(
        custom_roles.c.organization_id == organization_id, custom_roles.c.project_id == project_id
    )
    if session.value(existing) >= _MAX_ROLES:
        raise InvalidRequest(
            f"There are {_MAX_ROLES} roles already: delete those that nobody has.", code="too_many_roles"
        )


def _validate_unused_name(
    session: ReadSession, organization_id: str, project_id: str | None, name: str, *, exclude: str = ""
) -> str:
    requested = validators.validate_selectable_title(name, "name")
    if requested.lower() in ORGANIZATION_ROLES or requested.lower() in PROJECT_ROLES:
        raise Conflict(f"'{requested}' is a role that is there everywhere; choose another name.", param="name")
    existing = select(custom_roles.c.name).where(
        custom_roles.c.organization_id == organization_id,
        custom_roles.c.project_id == project_id,
        custom_roles.c.id != exclude,
    )
    if validators.skeleton(requested) in {validators.skeleton(row.name) for row in session.rows(existing)}:
        raise Conflict(f"There is a role named '{requested}' already; choose another name.", param="name")
    return requested


def _validate_description(value: str) -> str:
    if len(value) > _MAX_DESCRIPTION_LENGTH:
        raise InvalidRequest(
            f"'description' must be at most {_MAX_DESCRIPTION_LENGTH} characters long.", param="description"
        )
    return value


def _check_project(session: ReadSession, organization_id: str, project_id: str) -> None:
    query = select(projects.c.id).where(
        projects.c.id == project_id, projects.c.organization_id == organization_id, projects.c.archived_at.is_(None)
    )
    if session.first(query) is None:
        raise NotFound(f"No live project with id '{project_id}' in the organization.", param="project_id")


def _load(session: ReadSession, organization_id: str, role_id: str) -> CustomRole:
    query = select(custom_roles).where(custom_roles.c.id == role_id, custom_roles.c.organization_id == organization_id)
    row = session.first(query)
    if row is None:
        raise NotFound(f"No role with id '{role_id}' that the organization made.", param="role_id")
    return _role_from_row(row)


def _role_from_row(row: Row[Any]) -> CustomRole:
    return CustomRole(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        name=row.name,
        description=row.description,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
    )


def _holders(session: ReadSession, role_id: str) -> list[str]:
    """The ids of users who hold the role in the organization or a project."""
    tables = (organization_users, project_users)
    return [row.user_id for t in tables for row in session.rows(select(t.c.user_id).where(t.c.role == role_id))]


def _usages(session: ReadSession, role_id: str) -> dict[str, list[str]]:
    """The users, pending invitations and groups that refer to the role."""
    holders = select(users.c.email).where(users.c.id.in_(_holders(session, role_id))).order_by(users.c.email)
    pending = select(invites.c.email, invites.c.role, invites.c.projects).where(
        invites.c.accepted_at.is_(None), invites.c.revoked_at.is_(None), invites.c.expires_at > int(time.time())
    )
    invited = [row.email for row in session.rows(pending) if row.role == role_id or f'"{role_id}"' in row.projects]
    groups = select(group_roles.c.group_name).where(group_roles.c.role == role_id)
    return {
        "users": [row.email for row in session.rows(holders)],
        "invites": sorted(invited),
        "groups": [row.group_name for row in session.rows(groups)],
    }


def _record(
    session: WriteSession, caller: Caller, action: str, role_id: str, project_id: str | None, details: dict[str, Any]
) -> None:
    record_mutation(
        session, caller, action, role_id, details, organization_id=caller.organization_id, project_id=project_id
    )
