"""Who calls, as it stands in the organisation or project that the path names: LLMariner's own administration."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from llmariner.gateway.authentication.key_cache import missing_scope
from llmariner.http.authorization.authentication import authenticate, context_of
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, caller_in_project

__all__ = ["require_scope_on_path"]


def require_scope_on_path(scope: str, *, objects: str = "member") -> Any:
    """A dependency: the caller as it stands in `{organization_id}`, or in `{project_id}` of it, holding `scope` there.

    NotFound where it is no member, PermissionDenied where it lacks the scope. `objects` as in
    `require_scope`.
    """

    def standing(request: Request) -> Caller:
        caller = authenticate(request)
        # A key holds nowhere more than where it is at home: without the scope it learns nothing of what there is.
        if caller.key_id is not None and scope not in caller.scopes:
            raise missing_scope(scope)
        database, path = context_of(request).database, request.path_params
        organization_id, project_id = path["organization_id"], path.get("project_id")
        if project_id is None:
            return caller_in_organization(database, caller, organization_id, scope)
        return caller_in_project(database, caller, organization_id, project_id, scope)

    standing.scope = scope  # type: ignore[attr-defined]
    standing.objects = objects  # type: ignore[attr-defined]
    return Depends(standing)
