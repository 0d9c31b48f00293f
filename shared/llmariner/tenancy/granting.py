"""Who may give which role: nobody more than they hold themselves."""

from __future__ import annotations

from sqlalchemy import or_, select

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.platform.database import ReadSession
from llmariner.tenancy.caller import Caller
from llmariner.tenancy.scopes import ORGANIZATION_ROLES, PROJECT_ROLES, with_implied
from llmariner.tenancy.tables import custom_roles

__all__ = ["check_organization_role", "check_project_role", "owns"]


def owns(caller: Caller | None) -> bool:
    """Whether it has all of an owner's rights over the organisation; None is the platform itself.

    A key of an owner that was cut down to less has not: it could make others more than it is.
    """
    return caller is None or (caller.is_owner and "api.organizations.write" in caller.scopes)


def check_organization_role(session: ReadSession, caller: Caller | None, organization_id: str, role: str) -> None:
    """InvalidRequest for an unknown role of an organisation, PermissionDenied for one that the caller may not give."""
    scopes = ORGANIZATION_ROLES.get(role)
    if scopes is None:
        scopes = _made(session, organization_id, None, role)
    if scopes is None:
        raise _unknown(role, ORGANIZATION_ROLES, "organization")
    if owns(caller):
        return
    if role in ("owner", "tenant_system"):
        raise PermissionDenied(f"Only an owner of the organization gives the role '{role}'.")
    _check_held(caller, role, scopes)


def check_project_role(
    session: ReadSession, caller: Caller | None, organization_id: str, project_id: str, role: str
) -> None:
    """As `check_organization_role`, for a role in a project."""
    scopes = PROJECT_ROLES.get(role)
    if scopes is None:
        scopes = _made(session, organization_id, project_id, role)
    if scopes is None:
        raise _unknown(role, PROJECT_ROLES, "project")
    if not owns(caller):
        _check_held(caller, role, scopes)


def _made(session: ReadSession, organization_id: str, project_id: str | None, role: str) -> frozenset[str] | None:
    """The scopes of a role that the organisation made, for itself or for that project."""
    query = select(custom_roles.c.scopes).where(
        custom_roles.c.id == role,
        custom_roles.c.organization_id == organization_id,
        or_(custom_roles.c.project_id.is_(None), custom_roles.c.project_id == project_id),
    )
    scopes = session.value(query)
    return None if scopes is None else frozenset(scopes.split())


def _check_held(caller: Caller | None, role: str, scopes: frozenset[str]) -> None:
    assert caller is not None
    if missing := with_implied(scopes) - caller.scopes:
        raise PermissionDenied(
            f"You can't give the role '{role}', since it holds scopes that you don't: {', '.join(sorted(missing))}."
        )


def _unknown(role: str, known: dict[str, frozenset[str]], what: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unknown role '{role}' in this {what}: use {', '.join(known)}, or the id of a role that the organization made.",
        param="role",
    )
