"""/v1/organization/spend_limit: the organization's monthly spend limit, in OpenAI's format."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.spend_limits import Reader, SpendLimitBody, Writer, limits_of
from llmariner.limits.rules import Subject
from llmariner.tenancy.principal import Caller


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_spend_limit", context)
    app.get("/v1/organization/spend_limit")(get_spend_limit)
    app.post("/v1/organization/spend_limit")(set_spend_limit)
    app.delete("/v1/organization/spend_limit")(delete_spend_limit)
    return app


def get_spend_limit(request: Request, caller: Reader) -> dict[str, Any]:
    """The spend limit, and whether it rejects requests now."""
    return limits_of(request).get(_organization_subject(caller))


def set_spend_limit(request: Request, caller: Writer, body: SpendLimitBody) -> dict[str, Any]:
    """Set the spend limit; requests are rejected once it is reached."""
    return limits_of(request).put(caller, _organization_subject(caller), body.threshold_amount)


def delete_spend_limit(request: Request, caller: Writer) -> dict[str, Any]:
    """Delete the spend limit."""
    return limits_of(request).remove(caller, _organization_subject(caller))


def _organization_subject(caller: Caller) -> Subject:
    return Subject(caller.organization_id, "organization", caller.organization_id)


handle = http_function(build)
