"""The permissions of a caller in an organization or project that a path names, which need not be the caller's own.

A person has access where they are a member. A key has access to its own project; an owner's key to its whole
organization; a key of an owner of the default organization, which operates the installation, also to the other
organizations of its user.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from llmariner.errors import NotFound, PermissionDenied
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import EffectivePermissions, resolve_permissions
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES
from llmariner.tenancy.tables import organizations, projects

__all__ = [
    "accessible_organization_ids",
    "caller_in_organization",
    "caller_in_project",
    "can_view_all_projects",
    "is_default_organization",
]


def caller_in_organization(database: Database, caller: Caller, organization_id: str, scope: str) -> Caller:
    """The caller with its permissions in that organization. `scope`: the scope that it must hold there.

    NotFound if the caller has no access, PermissionDenied if it has and lacks the scope.
    """
    with database.read() as session:
        permissions = _permissions_in_organization(session, caller, organization_id, None)
    project_id = caller.project_id if organization_id == caller.organization_id else None
    return _require_scope(_caller_with_permissions(caller, organization_id, project_id, permissions), scope)


def caller_in_project(
    database: Database,
    caller: Caller,
    organization_id: str,
    project_id: str,
    scope: str,
    *,
    include_archived: bool = False,
) -> Caller:
    """The caller with its permissions in that project; `include_archived`: an archived project is found, too.

    NotFound and PermissionDenied as in `caller_in_organization`.
    """
    with database.read() as session:
        permissions = _permissions_in_organization(session, caller, organization_id, project_id)
        query = select(projects.c.archived_at).where(
            projects.c.id == project_id, projects.c.organization_id == organization_id
        )
        row = session.first(query)
    pinned = caller.key_id is not None and project_id != caller.project_id
    hidden = permissions.project_role is None or pinned
    scoped_caller = _caller_with_permissions(caller, organization_id, project_id, permissions)
    if (
        row is None
        or (row.archived_at is not None and not include_archived)
        or (hidden and not can_view_all_projects(scoped_caller))
    ):
        raise NotFound(
            f"No project with id '{project_id}' that you can see in the organization '{organization_id}'.",
            param="project_id",
        )
    return _require_scope(scoped_caller, scope)


def can_view_all_projects(caller: Caller) -> bool:
    """Whether the caller sees projects of its organization that it is no member of."""
    if caller.organization_role == "owner":
        return True
    has_custom_role = caller.organization_role is not None and caller.organization_role not in ORGANIZATION_ROLES
    return has_custom_role and "api.organizations.projects.read" in caller.scopes


def is_default_organization(session: ReadSession, organization_id: str) -> bool:
    """Whether this is the default organization, whose owners operate the installation."""
    return bool(session.value(select(organizations.c.is_default).where(organizations.c.id == organization_id)))


def accessible_organization_ids(session: ReadSession, caller: Caller, member_of: list[str]) -> list[str]:
    """Of the organizations that its user is a member of, those that the caller has access to."""
    return [each for each in member_of if _can_access_organization(session, caller, each)]


def _permissions_in_organization(
    session: ReadSession, caller: Caller, organization_id: str, project_id: str | None
) -> EffectivePermissions:
    permissions = resolve_permissions(session, caller.user_id, organization_id, project_id)
    if permissions.organization_role is None or not _can_access_organization(session, caller, organization_id):
        raise NotFound(
            f"No organization with id '{organization_id}' that you are a member of.", param="organization_id"
        )
    return permissions


def _can_access_organization(session: ReadSession, caller: Caller, organization_id: str) -> bool:
    if caller.key_id is None or organization_id == caller.organization_id:
        return True
    return caller.is_owner and is_default_organization(session, caller.organization_id)


def _caller_with_permissions(
    caller: Caller, organization_id: str, project_id: str | None, permissions: EffectivePermissions
) -> Caller:
    # The caller's scopes are already limited to those that its key carries.
    scopes = permissions.scopes if caller.key_id is None else permissions.scopes & caller.scopes
    return replace(
        caller,
        organization_id=organization_id,
        project_id=project_id,
        organization_role=permissions.organization_role,
        project_role=permissions.project_role,
        scopes=scopes,
    )


def _require_scope(caller: Caller, scope: str) -> Caller:
    if scope not in caller.scopes:
        raise PermissionDenied(
            f"This needs the scope '{scope}', which you don't hold there. Ask an owner of the organization."
        )
    return caller
