"""/v1/organization/spend_limit and that of a project: OpenAI's hard monthly limit, which is a budget here."""

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from llmariner.context import Context
from llmariner.errors import NotFound
from llmariner.http.administration import administers
from llmariner.http.app import api
from llmariner.http.authentication import context_of
from llmariner.http.function import Application, function
from llmariner.limits.budgets import Budget, NewBudget
from llmariner.limits.rules import Subject
from llmariner.limits.subjects import reached
from llmariner.tenancy.caller import Caller

READ, WRITE = "api.budgets.read", "api.budgets.write"
Reader = Annotated[Caller, administers(READ)]
Writer = Annotated[Caller, administers(WRITE)]
_MONTH = "month"
_NANO_IN_CENT = 10**7


class Update(BaseModel):
    """POST …/spend_limit. `threshold_amount` in cents."""

    model_config = ConfigDict(strict=True)

    currency: Literal["USD"]
    interval: Literal["month"]
    threshold_amount: Annotated[int, Field(ge=0, le=10**11)]


def build(context: Context) -> Application:
    """The routes."""
    app = api("organization_spend_limits", context)
    app.get("/v1/organization/spend_limit")(get_of_organization)
    app.post("/v1/organization/spend_limit")(set_of_organization)
    app.delete("/v1/organization/spend_limit")(delete_of_organization)
    app.get("/v1/organization/projects/{project_id}/spend_limit")(get_of_project)
    app.post("/v1/organization/projects/{project_id}/spend_limit")(set_of_project)
    app.delete("/v1/organization/projects/{project_id}/spend_limit")(delete_of_project)
    return app


def get_of_organization(request: Request, caller: Reader) -> dict[str, Any]:
    """The organisation's own."""
    return _shown(context_of(request), _existing(context_of(request), _organization(caller)))


def set_of_organization(request: Request, caller: Writer, body: Update) -> dict[str, Any]:
    """Set it; requests are refused once it is spent."""
    return _set(context_of(request), caller, _organization(caller), body)


def delete_of_organization(request: Request, caller: Writer) -> dict[str, Any]:
    """Take it away."""
    return _delete(context_of(request), caller, _organization(caller))


def get_of_project(request: Request, caller: Reader, project_id: str) -> dict[str, Any]:
    """A project's."""
    context = context_of(request)
    return _shown(context, _existing(context, reached(context.database, caller, "project", project_id, READ)))


def set_of_project(request: Request, caller: Writer, project_id: str, body: Update) -> dict[str, Any]:
    """Set a project's."""
    context = context_of(request)
    return _set(context, caller, reached(context.database, caller, "project", project_id, WRITE), body)


def delete_of_project(request: Request, caller: Writer, project_id: str) -> dict[str, Any]:
    """Take a project's away."""
    context = context_of(request)
    return _delete(context, caller, reached(context.database, caller, "project", project_id, WRITE))


def _organization(caller: Caller) -> Subject:
    return Subject(caller.organization_id, "organization", caller.organization_id)


def _set(context: Context, caller: Caller, subject: Subject, body: Update) -> dict[str, Any]:
    new = NewBudget(body.threshold_amount * _NANO_IN_CENT)
    return _shown(context, context.budgets.put(caller, subject, _MONTH, new))


def _delete(context: Context, caller: Caller, subject: Subject) -> dict[str, Any]:
    budget = _existing(context, subject)
    context.budgets.remove(caller, subject.organization_id, budget.id)
    return {"object": f"{subject.kind}.spend_limit.deleted", "deleted": True}


def _existing(context: Context, subject: Subject) -> Budget:
    for budget in context.budgets.of(subject):
        if budget.period == _MONTH and budget.hard:
            return budget
    raise NotFound(f"No spend limit is set for this {subject.kind}.")


def _shown(context: Context, budget: Budget) -> dict[str, Any]:
    account = context.leases.accounts([budget.id])[budget.id]
    return {
        "object": f"{budget.subject.kind}.spend_limit",
        "currency": "USD",
        "interval": _MONTH,
        "threshold_amount": budget.amount // _NANO_IN_CENT,
        "enforcement": {"status": "enforcing" if account.spent >= budget.amount else "inactive"},
    }


handle = function(build)
