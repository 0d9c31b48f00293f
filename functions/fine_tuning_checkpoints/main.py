"""/v1/fine_tuning/checkpoints: which other projects of the organization may use a checkpoint, in OpenAI's format."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.fine_tuning.permissions import CheckpointPermission
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.fine_tuning import CreateCheckpointPermissions
from llmariner.http.schemas.lists import CheckpointPermissionCursor, Limit
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.organizations.projects.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.projects.write")]
_PERMISSIONS = "/v1/fine_tuning/checkpoints/{id:path}/permissions"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_checkpoints", context)
    app.get(_PERMISSIONS)(list_permissions)
    app.post(_PERMISSIONS)(create_permissions)
    app.delete(f"{_PERMISSIONS}/{{permission_id}}")(delete_permission)
    return app


def list_permissions(
    request: Request,
    caller: Reader,
    id: str,
    after: CheckpointPermissionCursor = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """The projects that may use a checkpoint."""
    permissions = context_of(request).fine_tuning.permissions
    found, more = permissions.page(caller, id, project_id=project_id, after=after, limit=limit, order=order)
    return _list(found, more)


def create_permissions(request: Request, caller: Writer, id: str, body: CreateCheckpointPermissions) -> dict[str, Any]:
    """Let projects use a checkpoint."""
    return _list(context_of(request).fine_tuning.permissions.create(caller, id, body.project_ids), False)


def delete_permission(request: Request, caller: Writer, id: str, permission_id: str) -> dict[str, Any]:
    """End the permission of a project."""
    context_of(request).fine_tuning.permissions.delete(caller, id, permission_id)
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _list(found: list[CheckpointPermission], more: bool) -> dict[str, Any]:
    data = [
        {
            "id": each.id,
            "object": "checkpoint.permission",
            "created_at": each.created_at,
            "project_id": each.project_id,
        }
        for each in found
    ]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": more, "first_id": first, "last_id": last}


handle = http_function(build)
