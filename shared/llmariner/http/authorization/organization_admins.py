"""Who administers an organisation through OpenAI's admin API: its owners, admin keys, and roles it made for that."""

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
    """A dependency: a caller who holds `scope` for the whole organisation, and not for one project of it only.

    `objects` "installation": an owner of the default organisation, who runs the installation.
    """
    of_caller: Callable[[Request], Caller] = require_scope(scope).dependency

    def administering(request: Request) -> Caller:
        caller = of_caller(request)
        if objects == "installation" and not is_installation_owner(request, caller):
            raise PermissionDenied("Only an owner of the default organization, who runs the installation, may do that.")
        check_org_admin(request, caller, scope)
        return caller

    administering.scope = scope  # type: ignore[attr-defined]
    administering.objects = objects  # type: ignore[attr-defined]
    return Depends(administering)


def check_org_admin(request: Request, caller: Caller, scope: str) -> None:
    """PermissionDenied unless the caller holds `scope` for the whole organisation."""
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
    """What a role that the organisation made gives; a reader's scopes are for looking around in other routes."""
    made = select(custom_roles.c.scopes).where(
        custom_roles.c.id == caller.organization_role,
        custom_roles.c.organization_id == caller.organization_id,
        custom_roles.c.project_id.is_(None),
    )
    with context_of(request).database.read() as session:
        return frozenset((session.value(made) or "").split())
