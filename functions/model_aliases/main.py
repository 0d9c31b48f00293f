"""/v1/model_aliases: names by which the callers of a project refer to a model that changes."""

from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import Limit
from llmariner.http.schemas.models import CreateAlias, MoveAlias, RollBackAlias
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.model.read")]
Writer = Annotated[Caller, require_scope("api.model.write")]
_ALIASES = "/v1/model_aliases"
_ALIAS = f"{_ALIASES}/{{alias}}"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("model_aliases", context)
    app.get(_ALIASES)(list_aliases)
    app.post(_ALIASES)(create_alias)
    app.get(_ALIAS)(get_alias)
    app.patch(_ALIAS)(move_alias)
    app.delete(_ALIAS)(delete_alias)
    app.post(f"{_ALIAS}/rollback")(roll_back_alias)
    app.get(f"{_ALIAS}/revisions")(list_revisions)
    return app


def list_aliases(
    request: Request,
    caller: Reader,
    after: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 20,
) -> dict[str, Any]:
    """The project's aliases, by name."""
    aliases, project_id = context_of(request).model_aliases, caller.key_owner.project_id
    if after and not aliases.is_known(project_id, after):
        raise InvalidRequest(f"'after' names no alias: '{after}'.", param="after")
    found, more = aliases.page(project_id, after=after or None, limit=limit)
    return {"object": "list", "data": [alias.to_json() for alias in found], "has_more": more}


def create_alias(request: Request, caller: Writer, body: CreateAlias) -> dict[str, Any]:
    """Create an alias."""
    return context_of(request).model_aliases.create(caller, body.alias, body.model, body.reason).to_json()


def get_alias(request: Request, caller: Reader, alias: str) -> dict[str, Any]:
    """One alias."""
    return context_of(request).model_aliases.get(caller.key_owner.project_id, alias).to_json()


def move_alias(request: Request, caller: Writer, alias: str, body: MoveAlias) -> dict[str, Any]:
    """Let an alias point at another model."""
    aliases = context_of(request).model_aliases
    return aliases.move(caller, alias, body.model, body.reason, expected_revision=body.expected_revision).to_json()


def roll_back_alias(request: Request, caller: Writer, alias: str, body: RollBackAlias) -> dict[str, Any]:
    """Let an alias point where it pointed before, or at one of its revisions."""
    aliases = context_of(request).model_aliases
    return aliases.roll_back(
        caller, alias, body.revision, body.reason, expected_revision=body.expected_revision
    ).to_json()


def delete_alias(request: Request, caller: Writer, alias: str) -> dict[str, Any]:
    """Delete an alias; its history is kept for a while."""
    context_of(request).model_aliases.delete(caller, alias)
    return {"id": alias, "object": "model_alias", "deleted": True}


def list_revisions(
    request: Request,
    caller: Reader,
    alias: str,
    after: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    limit: Limit = 20,
) -> dict[str, Any]:
    """Where an alias pointed, the last change first. `after`: the number of a revision."""
    aliases, project_id = context_of(request).model_aliases, caller.key_owner.project_id
    found, more = aliases.revisions(project_id, alias, after=after, limit=limit)
    return {"object": "list", "data": [revision.to_json() for revision in found], "has_more": more}


handle = http_function(build)
