"""/v1/api_keys: keys of the caller; for owners, those of all that they own."""

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
Maker = Annotated[Caller, require_scope(WRITE)]
Writer = Annotated[Caller, require_scope(WRITE, objects="keys")]


def build(context: Context) -> Application:
    """The routes."""
    app = create_app("api_keys", context)
    app.get("/v1/api_keys")(list_keys)
    app.post("/v1/api_keys")(create_key)
    app.post("/v1/api_keys/{key_id}:rotate")(rotate_key)
    app.patch("/v1/api_keys/{key_id}")(update_key)
    app.delete("/v1/api_keys/{key_id}")(delete_key)
    return app


def list_keys(request: Request, caller: Reader) -> dict[str, Any]:
    """Live keys, newest first; of secrets only what they are recognised by."""
    return {
        "object": "list",
        "data": [api_key(key) for key in context_of(request).keys.matching(manageable_by(caller))],
    }


def create_key(request: Request, caller: Maker, body: CreateKey) -> dict[str, Any]:
    """Make a key, in the caller's own project unless another is named; the one answer that holds its secret."""
    context = context_of(request)
    there = caller
    if body.project_id is not None or body.organization_id is not None:
        organization_id = body.organization_id or caller.organization_id
        project_id = body.project_id or caller.key_owner.project_id
        there = caller_in_project(context.database, caller, organization_id, project_id, WRITE)
    return api_keys.create(context, there, body)


def rotate_key(request: Request, caller: Writer, key_id: str, body: RotateKey) -> dict[str, Any]:
    """Give it a new secret, shown in this answer; the old one works for `overlap_seconds` more."""
    keys = context_of(request).keys
    return api_key(*keys.rotate(manageable_by(caller), key_id, overlap=body.overlap_seconds, actor=caller))


def update_key(request: Request, caller: Writer, key_id: str, body: UpdateKey, update_mask: str = "") -> dict[str, Any]:
    """Change what it is called, what it may do and for how long."""
    return api_keys.update(context_of(request), caller, key_id, body, update_mask)


def delete_key(request: Request, caller: Writer, key_id: str) -> dict[str, Any]:
    """End it, everywhere within seconds; a service account ends with its last."""
    context_of(request).keys.revoke(manageable_by(caller), key_id, actor=caller)
    return deletion_response(key_id)


handle = http_function(build)
