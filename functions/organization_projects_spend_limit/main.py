"""/v1/organization/projects/{project_id}/spend_limit: a project's monthly spend limit, in OpenAI's format."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.spend_limits import READ, WRITE, Reader, SpendLimitBody, Writer, limits_of
from llmariner.limits.authorization import authorize_subject
from llmariner.limits.rules import Subject
from llmariner.tenancy.principal import Caller


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_projects_spend_limit", context)
    app.get("/v1/organization/projects/{project_id}/spend_limit")(get_spend_limit)
    app.post("/v1/organization/projects/{project_id}/spend_limit")(set_spend_limit)
    app.delete("/v1/organization/projects/{project_id}/spend_limit")(delete_spend_limit)
    return app


def get_spend_limit(request: Request, caller: Reader, project_id: str) -> dict[str, Any]:
    """The spend limit, and whether it rejects requests now."""
    return limits_of(request).get(_project_subject(request, caller, project_id, READ))


def set_spend_limit(request: Request, caller: Writer, project_id: str, body: SpendLimitBody) -> dict[str, Any]:
    """Set the spend limit; requests are rejected once it is reached."""
    return limits_of(request).put(caller, _project_subject(request, caller, project_id, WRITE), body.threshold_amount)


def delete_spend_limit(request: Request, caller: Writer, project_id: str) -> dict[str, Any]:
    """Delete the spend limit."""
    return limits_of(request).remove(caller, _project_subject(request, caller, project_id, WRITE))


def _project_subject(request: Request, caller: Caller, project_id: str, scope: str) -> Subject:
    return authorize_subject(context_of(request).database, caller, "project", project_id, scope)


handle = http_function(build)
