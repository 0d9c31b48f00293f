"""/v1/organization/projects/{project_id}/spend_limit: what a project may spend in a month, as OpenAI's admin API has it."""

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from llmariner.context import Context
from llmariner.http.administration import administers
from llmariner.http.app import api
from llmariner.http.authentication import context_of
from llmariner.http.function import Application, function
from llmariner.limits.rules import Subject
from llmariner.limits.spend_limits import SpendLimits
from llmariner.limits.subjects import reached
from llmariner.tenancy.caller import Caller

READ, WRITE = "api.budgets.read", "api.budgets.write"
Reader = Annotated[Caller, administers(READ)]
Writer = Annotated[Caller, administers(WRITE)]


class Update(BaseModel):
    """POST …/spend_limit. `threshold_amount` in cents."""

    model_config = ConfigDict(strict=True)

    currency: Literal["USD"]
    interval: Literal["month"]
    threshold_amount: Annotated[int, Field(ge=0, le=10**11)]


def build(context: Context) -> Application:
    """The routes."""
    app = api("organization_projects_spend_limit", context)
    app.get("/v1/organization/projects/{project_id}/spend_limit")(get_spend_limit)
    app.post("/v1/organization/projects/{project_id}/spend_limit")(set_spend_limit)
    app.delete("/v1/organization/projects/{project_id}/spend_limit")(delete_spend_limit)
    return app


def get_spend_limit(request: Request, caller: Reader, project_id: str) -> dict[str, Any]:
    """It, and whether it refuses requests now."""
    return _limits(request).shown(_project(request, caller, project_id, READ))


def set_spend_limit(request: Request, caller: Writer, project_id: str, body: Update) -> dict[str, Any]:
    """Set it; requests are refused once it is spent."""
    return _limits(request).put(caller, _project(request, caller, project_id, WRITE), body.threshold_amount)


def delete_spend_limit(request: Request, caller: Writer, project_id: str) -> dict[str, Any]:
    """Take it away."""
    return _limits(request).remove(caller, _project(request, caller, project_id, WRITE))


def _limits(request: Request) -> SpendLimits:
    return SpendLimits(context_of(request).budgets, context_of(request).leases)


def _project(request: Request, caller: Caller, project_id: str, scope: str) -> Subject:
    return reached(context_of(request).database, caller, "project", project_id, scope)


handle = function(build)
