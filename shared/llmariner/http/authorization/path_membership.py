"""Access checks of LLMariner's own administration: the caller's scopes in the organization or project of the path."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from llmariner.gateway.authentication.key_cache import missing_scope
from llmariner.http.authorization.authentication import authenticate, context_of
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, caller_in_project

__all__ = ["require_scope_on_path"]


def require_scope_on_path(scope: str, *, objects: str = "member") -> Any:
    """A FastAPI dependency that returns the caller, who must hold `scope` in the path's organization or project.

    Raises NotFound for a caller who is not a member, PermissionDenied without the scope. `objects`: see `require_scope`.
    """

    def authorized(request: Request) -> Caller:
        caller = authenticate(request)
        # A key never holds more than in its own project: without the scope it must not learn which organizations exist.
        if caller.key_id is not None and scope not in caller.scopes:
            raise missing_scope(scope)
        database, path = context_of(request).database, request.path_params
        organization_id, project_id = path["organization_id"], path.get("project_id")
        if project_id is None:
            return caller_in_organization(database, caller, organization_id, scope)
        return caller_in_project(database, caller, organization_id, project_id, scope)

    authorized.scope = scope  # type: ignore[attr-defined]
    authorized.objects = objects  # type: ignore[attr-defined]
    return Depends(authorized)
