"""Rules for granting and revoking roles: a caller needs all scopes of the role, where the role applies."""

from __future__ import annotations

from sqlalchemy import or_, select

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.platform.database import ReadSession
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES, with_implied
from llmariner.tenancy.tables import custom_roles

__all__ = [
    "check_can_grant_organization_role",
    "check_can_grant_project_role",
    "check_can_revoke_organization_role",
    "check_can_revoke_project_role",
    "has_full_owner_rights",
    "held_scopes",
]


def has_full_owner_rights(caller: Caller | None) -> bool:
    """Whether the caller has all rights of an owner of the organization. None is the platform itself.

    A key of an owner that lacks `api.organizations.write` has not: it could grant others more than it holds.
    """
    return caller is None or (caller.is_owner and "api.organizations.write" in caller.scopes)


def held_scopes(session: ReadSession, caller: Caller, organization_id: str, project_id: str | None) -> frozenset[str]:
    """The scopes that a caller holds in an organization or project; for a key at most those that it carries.

    `project_id` None: in the organization as a whole, where the roles in projects give no scopes.
    """
    scopes = resolve_permissions(session, caller.user_id, organization_id, project_id).scopes
    return scopes if caller.key_id is None else scopes & caller.scopes


def check_can_grant_organization_role(
    session: ReadSession, caller: Caller | None, organization_id: str, role: str
) -> None:
    """InvalidRequest for an unknown organization role, PermissionDenied for one that the caller may not grant."""
    scopes = _organization_scopes(session, organization_id, role)
    if scopes is None:
        raise _unknown_role(role, ORGANIZATION_ROLES, "organization")
    if caller is None or has_full_owner_rights(caller):
        return
    if role in ("owner", "tenant_system"):
        raise PermissionDenied(f"Only an owner of the organization gives the role '{role}'.")
    _check_grantable(held_scopes(session, caller, organization_id, None), role, scopes)


def check_can_grant_project_role(
    session: ReadSession, caller: Caller | None, organization_id: str, project_id: str, role: str
) -> None:
    """As `check_can_grant_organization_role`, for a role in a project."""
    scopes = _project_scopes(session, organization_id, project_id, role)
    if scopes is None:
        raise _unknown_role(role, PROJECT_ROLES, "project")
    if caller is not None and not has_full_owner_rights(caller):
        _check_grantable(held_scopes(session, caller, organization_id, project_id), role, scopes)


def check_can_revoke_organization_role(
    session: ReadSession, caller: Caller | None, organization_id: str, role: str
) -> None:
    """PermissionDenied if the caller holds less than the role that it would revoke, or whose holder it would restrict.

    The role `reader` can always be revoked: every member has at least its scopes.
    """
    if caller is None or has_full_owner_rights(caller) or role == "reader":
        return
    scopes = _organization_scopes(session, organization_id, role) or frozenset()
    if role in ("owner", "tenant_system"):
        raise PermissionDenied(f"Only an owner of the organization takes the role '{role}', or changes who has it.")
    _check_revocable(held_scopes(session, caller, organization_id, None), role, scopes - ORGANIZATION_ROLES["reader"])


def check_can_revoke_project_role(
    session: ReadSession, caller: Caller | None, organization_id: str, project_id: str, role: str
) -> None:
    """As `check_can_revoke_organization_role`, for a role in a project."""
    if caller is not None and not has_full_owner_rights(caller):
        scopes = _project_scopes(session, organization_id, project_id, role) or frozenset()
        _check_revocable(held_scopes(session, caller, organization_id, project_id), role, scopes)


def _organization_scopes(session: ReadSession, organization_id: str, role: str) -> frozenset[str] | None:
    scopes = ORGANIZATION_ROLES.get(role)
    return _custom_role_scopes(session, organization_id, None, role) if scopes is None else scopes


def _project_scopes(session: ReadSession, organization_id: str, project_id: str, role: str) -> frozenset[str] | None:
    scopes = PROJECT_ROLES.get(role)
    return _custom_role_scopes(session, organization_id, project_id, role) if scopes is None else scopes


def _custom_role_scopes(
    session: ReadSession, organization_id: str, project_id: str | None, role: str
) -> frozenset[str] | None:
    """The scopes of a custom role of the organization, or of that project of it; None if there is none."""
    query = select(custom_roles.c.scopes).where(
        custom_roles.c.id == role,
        custom_roles.c.organization_id == organization_id,
        or_(custom_roles.c.project_id.is_(None), custom_roles.c.project_id == project_id),
    )
    scopes = session.value(query)
    return None if scopes is None else frozenset(scopes.split())


def _check_grantable(own: frozenset[str], role: str, scopes: frozenset[str]) -> None:
    if missing := with_implied(scopes) - own:
        raise PermissionDenied(
            f"You can't give the role '{role}', since it holds scopes that you don't hold there: "
            f"{', '.join(sorted(missing))}."
        )


def _check_revocable(own: frozenset[str], role: str, scopes: frozenset[str]) -> None:
    if missing := with_implied(scopes) - own:
        raise PermissionDenied(
            f"You can't take the role '{role}', or change who has it, since it holds scopes that you don't hold there: "
            f"{', '.join(sorted(missing))}. Ask an owner of the organization."
        )


def _unknown_role(role: str, roles: dict[str, frozenset[str]], what: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unknown role '{role}' in this {what}: use {', '.join(roles)}, or the id of a role that the organization made.",
        param="role",
    )
