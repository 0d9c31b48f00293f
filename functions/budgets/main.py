"""/v1/budgets: the money that a key, user, project or organization may spend."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import ConfigDict, Field

from llmariner.context import Context
from llmariner.errors import NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.limits.authorization import authorize_subject, filter_visible
from llmariner.limits.budgets import Budget, NewBudget
from llmariner.tenancy.principal import Caller
from llmariner.usage.prices import dollars, nano_dollars

READ, WRITE = "api.budgets.read", "api.budgets.write"
Reader = Annotated[Caller, require_scope(READ, objects="member")]
Writer = Annotated[Caller, require_scope(WRITE, objects="member")]
Kind = Literal["organization", "project", "user", "key"]
Dollars = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class UpdateBudget(Body):
    """POST /v1/budgets/{id}. `amount` in US dollars; `alert_ratio` null: no alert; absent fields are unchanged."""

    model_config = ConfigDict(strict=False)  # for decimals

    amount: Dollars | None = None
    alert_ratio: Ratio | None = None
    hard: bool | None = None


class CreateBudget(Body):
    """POST /v1/budgets. `hard`: requests are rejected once the amount is spent."""

    model_config = ConfigDict(strict=False)  # for decimals

    subject: Kind
    subject_id: str = Field(min_length=1, max_length=64)
    period: Literal["day", "month", "total"]
    amount: Dollars
    alert_ratio: Ratio | None = 0.8
    hard: bool = True


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("budgets", context)
    app.get("/v1/budgets")(list_budgets)
    app.post("/v1/budgets")(put_budget)
    app.get("/v1/budgets/{budget_id}")(get_budget)
    app.post("/v1/budgets/{budget_id}")(update_budget)
    app.delete("/v1/budgets/{budget_id}")(delete_budget)
    return app


def list_budgets(
    request: Request,
    caller: Reader,
    subject: Annotated[Kind | None, Query()] = None,
    subject_id: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """The budgets that the caller may see, with their spending; filters: subject, subject_id."""
    context = context_of(request)
    selected = [
        budget
        for budget in context.budgets.all(caller.organization_id)
        if subject in (None, budget.subject.kind) and subject_id in (None, budget.subject.id)
    ]
    return {"object": "list", "data": _serialize(context, filter_visible(context.database, caller, selected, READ))}


def put_budget(request: Request, caller: Writer, body: CreateBudget) -> dict[str, Any]:
    """Create the subject's budget of a period, or update it: a subject has one budget per period."""
    context = context_of(request)
    subject = authorize_subject(context.database, caller, body.subject, body.subject_id, WRITE)
    new = NewBudget(nano_dollars(body.amount, "amount"), body.alert_ratio, body.hard)
    return _serialize(context, [context.budgets.put(caller, subject, body.period, new)])[0]


def get_budget(request: Request, caller: Reader, budget_id: str) -> dict[str, Any]:
    """One budget."""
    context = context_of(request)
    return _serialize(context, [_get_budget(context, caller, budget_id, READ)])[0]


def update_budget(request: Request, caller: Writer, budget_id: str, body: UpdateBudget) -> dict[str, Any]:
    """Update a budget; its spending is unchanged."""
    context = context_of(request)
    budget = _get_budget(context, caller, budget_id, WRITE)
    new = NewBudget(
        budget.amount if body.amount is None else nano_dollars(body.amount, "amount"),
        body.alert_ratio if "alert_ratio" in body.model_fields_set else budget.alert_ratio,
        budget.hard if body.hard is None else body.hard,
    )
    return _serialize(context, [context.budgets.update(caller, budget, new)])[0]


def delete_budget(request: Request, caller: Writer, budget_id: str) -> dict[str, Any]:
    """Delete a budget, effective everywhere within seconds."""
    context = context_of(request)
    budget = _get_budget(context, caller, budget_id, WRITE)
    context.budgets.remove(caller, caller.organization_id, budget.id)
    return {"id": budget_id, "object": "budget", "deleted": True}


def _get_budget(context: Context, caller: Caller, budget_id: str, scope: str) -> Budget:
    budget = context.budgets.get(caller.organization_id, budget_id)
    try:
        authorize_subject(context.database, caller, budget.subject.kind, budget.subject.id, scope)
    except NotFound:
        raise NotFound(f"No budget with id '{budget_id}'. List yours with GET /v1/budgets.", param="id") from None
    return budget


def _serialize(context: Context, budgets: list[Budget]) -> list[dict[str, Any]]:
    states = context.leases.quota_states([budget.id for budget in budgets])
    spent = {name: (state.spent, state.leased_money()) for name, state in states.items()}
    return [
        {
            "id": budget.id,
            "object": "budget",
            "subject": budget.subject.kind,
            "subject_id": budget.subject.id,
            "period": budget.period,
            "currency": "usd",
            "amount": dollars(budget.amount),
            "alert_ratio": budget.alert_ratio,
            "hard": budget.hard,
            "spent": dollars(spent.get(budget.id, (0, 0))[0]),
            "reserved": dollars(spent.get(budget.id, (0, 0))[1]),
            "notification_channel": budget.channel,
            "created_at": budget.created_at,
            "updated_at": budget.updated_at,
        }
        for budget in budgets
    ]


handle = http_function(build)
