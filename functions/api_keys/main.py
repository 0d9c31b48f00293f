"""/v1/api_keys: keys of the caller's project."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.app import api
from llmariner.http.authentication import context_of, requires
from llmariner.http.function import Application, function
from llmariner.tenancy.caller import Caller
from llmariner.tenancy.keys import ApiKey, NewKey
from llmariner.tenancy.scopes import checked

Reader = Annotated[Caller, requires("api.organizations.projects.api_keys.read")]
Writer = Annotated[Caller, requires("api.organizations.projects.api_keys.write")]


class CreateKey(BaseModel):
    """POST /v1/api_keys. `expires_in_seconds` None: never."""

    model_config = ConfigDict(strict=True)

    name: str
    project_id: str | None = None
    organization_id: str | None = None
    scopes: list[str] | None = None
    expires_in_seconds: int | None = Field(default=None, ge=1, le=10 * 365 * 86400)
    excluded_from_rate_limiting: bool = False


class UpdateKey(BaseModel):
    """PATCH /v1/api_keys/{id}."""

    model_config = ConfigDict(strict=True)

    name: str | None = None
    excluded_from_rate_limiting: bool | None = None


class RotateKey(BaseModel):
    """POST /v1/api_keys/{id}:rotate."""

    model_config = ConfigDict(strict=True)

    overlap_seconds: int = 0


def build(context: Context) -> Application:
    """The routes."""
    app = api("api_keys", context)
    app.get("/v1/api_keys")(list_keys)
    app.post("/v1/api_keys")(create_key)
    app.post("/v1/api_keys/{key_id}:rotate")(rotate_key)
    app.patch("/v1/api_keys/{key_id}")(update_key)
    app.delete("/v1/api_keys/{key_id}")(delete_key)
    return app


def list_keys(request: Request, key: Reader) -> dict[str, Any]:
    """The project's live keys, newest first; of secrets only what they are recognised by."""
    return {"object": "list", "data": [_rendered(k) for k in context_of(request).keys.of_project(key.owner)]}


def create_key(request: Request, key: Writer, body: CreateKey) -> dict[str, Any]:
    """Make a key; the one answer that holds its secret."""
    for name, asked, own in (
        ("project_id", body.project_id, key.owner.project_id),
        ("organization_id", body.organization_id, key.owner.organization_id),
    ):
        if asked is not None and asked != own:
            raise InvalidRequest(f"'{name}' must be your own, {own}, or be left out.", param=name)
    new = NewKey(
        name=body.name,
        scopes=checked(body.scopes, held=key.scopes),
        expires_in=body.expires_in_seconds,
        excluded_from_rate_limiting=body.excluded_from_rate_limiting,
    )
    made, secret = context_of(request).keys.create(key.owner, new)
    return _rendered(made, secret)


def rotate_key(request: Request, key: Writer, key_id: str, body: RotateKey) -> dict[str, Any]:
    """Give it a new secret, shown in this answer; the old one works for `overlap_seconds` more."""
    changed, secret = context_of(request).keys.rotate(key.owner, key_id, overlap=body.overlap_seconds)
    return _rendered(changed, secret)


def update_key(request: Request, key: Writer, key_id: str, body: UpdateKey) -> dict[str, Any]:
    """Rename it, or change whether limits apply to it."""
    if body.name is None and body.excluded_from_rate_limiting is None:
        raise InvalidRequest("Nothing to change: send 'name' or 'excluded_from_rate_limiting'.", param="name")
    keys = context_of(request).keys
    return _rendered(keys.update(key.owner, key_id, name=body.name, excluded=body.excluded_from_rate_limiting))


def delete_key(request: Request, key: Writer, key_id: str) -> dict[str, Any]:
    """End it, everywhere within seconds."""
    context_of(request).keys.revoke(key.owner, key_id)
    return {"id": key_id, "object": "organization.api_key", "deleted": True}


def _rendered(key: ApiKey, secret: str | None = None) -> dict[str, Any]:
    return {
        "id": key.id,
        "object": "organization.api_key",
        "name": key.name,
        "secret": secret or key.prefix,
        "prefix": key.prefix,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "scopes": sorted(key.scopes),
        "user": {"id": key.user_id, "email": key.email},
        "organization": {"id": key.organization_id, "title": key.organization_title},
        "project": {"id": key.project_id, "title": key.project_title},
        "excluded_from_rate_limiting": key.excluded_from_rate_limiting,
    }


handle = function(build)
