"""/v1/api_keys: the caller's API keys; for an owner, those of the organizations and projects that they own."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources import api_keys
from llmariner.http.resources.api_keys import CreateKey, RotateKey, UpdateKey, deletion_response
from llmariner.http.schemas.llmariner import api_key
from llmariner.tenancy.keys.visibility import manageable_by
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_project

WRITE = "api.organizations.projects.api_keys.write"
Reader = Annotated[Caller, require_scope("api.organizations.projects.api_keys.read", objects="keys")]
Creator = Annotated[Caller, require_scope(WRITE)]
Writer = Annotated[Caller, require_scope(WRITE, objects="keys")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("api_keys", context)
    app.get("/v1/api_keys")(list_keys)
    app.post("/v1/api_keys")(create_key)
    app.post("/v1/api_keys/{key_id}:rotate")(rotate_key)
    app.patch("/v1/api_keys/{key_id}")(update_key)
    app.delete("/v1/api_keys/{key_id}")(delete_key)
    return app


def list_keys(request: Request, caller: Reader) -> dict[str, Any]:
    """Active keys, newest first, with the prefixes of their secrets."""
    return {
        "object": "list",
        "data": [api_key(key) for key in context_of(request).keys.matching(manageable_by(caller))],
    }


def create_key(request: Request, caller: Creator, body: CreateKey) -> dict[str, Any]:
    """Create a key, by default in the caller's project. Only this response has its secret."""
    context = context_of(request)
    member = caller
    if body.project_id is not None or body.organization_id is not None:
        organization_id = body.organization_id or caller.organization_id
        project_id = body.project_id or caller.key_owner.project_id
        member = caller_in_project(context.database, caller, organization_id, project_id, WRITE)
    return api_keys.create(context, member, body)


def rotate_key(request: Request, caller: Writer, key_id: str, body: RotateKey) -> dict[str, Any]:
    """Replace the secret and return the new one; the old secret stays valid for `overlap_seconds`."""
    keys = context_of(request).keys
    return api_key(*keys.rotate(manageable_by(caller), key_id, overlap=body.overlap_seconds, actor=caller))


def update_key(request: Request, caller: Writer, key_id: str, body: UpdateKey, update_mask: str = "") -> dict[str, Any]:
    """Change the name, restrictions or expiry of a key."""
    return api_keys.update(context_of(request), caller, key_id, body, update_mask)


def delete_key(request: Request, caller: Writer, key_id: str) -> dict[str, Any]:
    """Revoke a key, effective everywhere within seconds. A service account is deleted with its last key."""
    context_of(request).keys.revoke(manageable_by(caller), key_id, actor=caller)
    return deletion_response(key_id)


handle = http_function(build)
