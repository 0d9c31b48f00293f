"""/v1/model_credentials: by which models of private repositories and buckets are fetched; never read back."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.models import PutModelCredential
from llmariner.models.source_credentials import StoredSourceCredential
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.model.read")]
Writer = Annotated[Caller, require_scope("api.organizations.projects.write")]
_CREDENTIALS = "/v1/model_credentials"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("model_credentials", context)
    app.get(_CREDENTIALS)(list_credentials)
    app.post(_CREDENTIALS)(put_credential)
    app.delete(f"{_CREDENTIALS}/{{id}}")(delete_credential)
    return app


def list_credentials(request: Request, caller: Reader) -> dict[str, Any]:
    """The project's credentials, without their secrets."""
    found = context_of(request).source_credentials.all(caller.key_owner.project_id)
    return {"object": "list", "data": [_object(each) for each in found], "has_more": False}


def put_credential(request: Request, caller: Writer, body: PutModelCredential) -> dict[str, Any]:
    """Set the credential of a name, in place of the one before."""
    return _object(context_of(request).source_credentials.put(caller, body.to_new()))


def delete_credential(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Delete a credential."""
    context_of(request).source_credentials.delete(caller, id)
    return {"id": id, "object": "model_credential.deleted", "deleted": True}


def _object(stored: StoredSourceCredential) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "model_credential",
        "name": stored.name,
        "source_repository": f"SOURCE_REPOSITORY_{stored.source}",
        "username": stored.username,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    }


handle = http_function(build)
