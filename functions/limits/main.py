"""/v1/limits: limits on requests, tokens and concurrency of a key, user, project or organization."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.limits.authorization import authorize_subject, filter_visible
from llmariner.limits.rules import ALL_MODELS, MEASURES, Limit, Subject
from llmariner.tenancy.principal import Caller

READ, WRITE = "api.limits.read", "api.limits.write"
Reader = Annotated[Caller, require_scope(READ, objects="member")]
Writer = Annotated[Caller, require_scope(WRITE, objects="member")]
Kind = Literal["organization", "project", "user", "key"]
Threshold = Annotated[int, Field(ge=0, le=2**53)]


class LimitFields(Body):
    """The thresholds of a limit; null removes one, absent ones are unchanged."""

    requests_per_minute: Threshold | None = None
    requests_per_day: Threshold | None = None
    tokens_per_minute: Threshold | None = None
    tokens_per_day: Threshold | None = None
    concurrent_requests: Threshold | None = None
    queue_share: Threshold | None = None

    @property
    def sent_thresholds(self) -> dict[str, int | None]:
        """The thresholds that are present in the body."""
        return {name: getattr(self, name) for name in MEASURES if name in self.model_fields_set}


class CreateLimit(LimitFields):
    """POST /v1/limits. `model` '*': the total of all models."""

    subject: Kind
    subject_id: str = Field(min_length=1, max_length=64)
    model: str = Field(default=ALL_MODELS, min_length=1, max_length=256)


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("limits", context)
    app.get("/v1/limits")(list_limits)
    app.post("/v1/limits")(put_limit)
    app.get("/v1/limits/{limit_id}")(get_limit)
    app.post("/v1/limits/{limit_id}")(update_limit)
    app.delete("/v1/limits/{limit_id}")(delete_limit)
    return app


def list_limits(
    request: Request,
    caller: Reader,
    subject: Annotated[Kind | None, Query()] = None,
    subject_id: Annotated[str | None, Query(max_length=64)] = None,
    model: Annotated[str | None, Query(max_length=256)] = None,
) -> dict[str, Any]:
    """The limits that the caller may see, with their current use; filters: subject, subject_id, model."""
    context = context_of(request)
    selected = [
        limit
        for limit in context.limits.all(caller.organization_id)
        if subject in (None, limit.subject.kind)
        and subject_id in (None, limit.subject.id)
        and model in (None, limit.model)
    ]
    return {"object": "list", "data": _serialize(context, filter_visible(context.database, caller, selected, READ))}


def put_limit(request: Request, caller: Writer, body: CreateLimit) -> dict[str, Any]:
    """Create the subject's limit for a model, or update it: a subject has one limit per model."""
    context = context_of(request)
    subject = authorize_subject(context.database, caller, body.subject, body.subject_id, WRITE)
    _check_thresholds(subject, body.sent_thresholds)
    return _serialize(context, [context.limits.put(caller, subject, body.model, body.sent_thresholds)])[0]


def get_limit(request: Request, caller: Reader, limit_id: str) -> dict[str, Any]:
    """One limit."""
    context = context_of(request)
    return _serialize(context, [_get_limit(context, caller, limit_id, READ)])[0]


def update_limit(request: Request, caller: Writer, limit_id: str, body: LimitFields) -> dict[str, Any]:
    """Update the thresholds of a limit."""
    context = context_of(request)
    limit = _get_limit(context, caller, limit_id, WRITE)
    _check_thresholds(limit.subject, body.sent_thresholds)
    return _serialize(context, [context.limits.put(caller, limit.subject, limit.model, body.sent_thresholds)])[0]


def delete_limit(request: Request, caller: Writer, limit_id: str) -> dict[str, Any]:
    """Delete a limit, effective everywhere within seconds."""
    context = context_of(request)
    limit = _get_limit(context, caller, limit_id, WRITE)
    context.limits.remove(caller, caller.organization_id, limit.id)
    return {"id": limit_id, "object": "limit", "deleted": True}


def _get_limit(context: Context, caller: Caller, limit_id: str, scope: str) -> Limit:
    limit = context.limits.get(caller.organization_id, limit_id)
    try:
        authorize_subject(context.database, caller, limit.subject.kind, limit.subject.id, scope)
    except NotFound:
        raise NotFound(f"No limit with id '{limit_id}'. List yours with GET /v1/limits.", param="id") from None
    return limit


def _check_thresholds(subject: Subject, thresholds: Mapping[str, int | None]) -> None:
    if not thresholds:
        raise InvalidRequest(f"Say what is limited: {', '.join(MEASURES)}.", param=MEASURES[0])
    if thresholds.get("queue_share") is not None and subject.kind not in ("organization", "project"):
        raise InvalidRequest(
            "Waiting rooms are shared out among projects: set 'queue_share' for a project or an organization.",
            param="queue_share",
        )


def _serialize(context: Context, limits: list[Limit]) -> list[dict[str, Any]]:
    states = context.leases.quota_states([limit.id for limit in limits])
    return [
        {
            "id": limit.id,
            "object": "limit",
            "subject": limit.subject.kind,
            "subject_id": limit.subject.id,
            "model": limit.model,
            **{name: limit.thresholds.get(name) for name in MEASURES},
            "used": states[limit.id].current_usage() if limit.id in states else {},
            "created_at": limit.created_at,
            "updated_at": limit.updated_at,
        }
        for limit in limits
    ]


handle = http_function(build)
