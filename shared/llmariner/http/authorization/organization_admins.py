"""Access checks of OpenAI's admin API: an organization's owners, its admin keys, and its custom roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, Request
from sqlalchemy import select

from llmariner.errors import PermissionDenied
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization
from llmariner.tenancy.tables import custom_roles

__all__ = ["check_org_admin", "is_installation_owner", "require_org_admin"]


def require_org_admin(scope: str, *, objects: str = "organization") -> Any:
    """A FastAPI dependency that returns a caller who holds `scope` for the whole organization, not for one project only.

    `objects` "installation" requires an owner of the default organization, who operates the installation.
    """
    scoped_caller: Callable[[Request], Caller] = require_scope(scope).dependency

    def authorized(request: Request) -> Caller:
        caller = scoped_caller(request)
        if objects == "installation" and not is_installation_owner(request, caller):
            raise PermissionDenied("Only an owner of the default organization, who runs the installation, may do that.")
        check_org_admin(request, caller, scope)
        return caller

    authorized.scope = scope  # type: ignore[attr-defined]
    authorized.objects = objects  # type: ignore[attr-defined]
    return Depends(authorized)


def check_org_admin(request: Request, caller: Caller, scope: str) -> None:
    """Raises PermissionDenied unless the caller holds `scope` for the whole organization."""
    if scope not in caller.scopes or not (caller.is_owner or scope in _custom_role_scopes(request, caller)):
        raise PermissionDenied(
            f"Only an owner of the organization, one of its admin keys, or a role that it made for this, each with the "
            f"scope '{scope}', may do that. Inside your own project, use the routes of LLMariner's own API."
        )


def is_installation_owner(request: Request, caller: Caller) -> bool:
    """Whether the caller is an owner of the default organization."""
    with context_of(request).database.read() as session:
        return caller.is_owner and is_default_organization(session, caller.organization_id)


def _custom_role_scopes(request: Request, caller: Caller) -> frozenset[str]:
    """The scopes of the caller's custom role; those of the predefined role `reader` do not administer."""
    custom_scopes = select(custom_roles.c.scopes).where(
        custom_roles.c.id == caller.organization_role,
        custom_roles.c.organization_id == caller.organization_id,
        custom_roles.c.project_id.is_(None),
    )
    with context_of(request).database.read() as session:
        return frozenset((session.value(custom_scopes) or "").split())
