"""/v1/fine_tuning/credentials: by which the metrics of a project's jobs are sent to tracking servers; never read back."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.fine_tuning.credentials import StoredCredential
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.fine_tuning import PutCredential
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.fine_tuning.jobs.read")]
Writer = Annotated[Caller, require_scope("api.organizations.projects.write")]
_CREDENTIALS = "/v1/fine_tuning/credentials"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("fine_tuning_credentials", context)
    app.get(_CREDENTIALS)(list_credentials)
    app.post(_CREDENTIALS)(put_credential)
    app.delete(f"{_CREDENTIALS}/{{id}}")(delete_credential)
    return app


def list_credentials(request: Request, caller: Reader) -> dict[str, Any]:
    """The project's credentials, without their secrets: one for each server at most."""
    found = context_of(request).fine_tuning.credentials.all(caller.key_owner.project_id)
    return {"object": "list", "data": [_object(each) for each in found], "has_more": False}


def put_credential(request: Request, caller: Writer, body: PutCredential) -> dict[str, Any]:
    """Set the credential for a server, in place of the one before."""
    return _object(context_of(request).fine_tuning.credentials.put(caller, body.to_new()))


def delete_credential(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Delete a credential."""
    context_of(request).fine_tuning.credentials.delete(caller, id)
    return {"id": id, "object": "fine_tuning.credential.deleted", "deleted": True}


def _object(stored: StoredCredential) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "fine_tuning.credential",
        "type": stored.type,
        "server": stored.server,
        "username": stored.username,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    }


handle = http_function(build)
