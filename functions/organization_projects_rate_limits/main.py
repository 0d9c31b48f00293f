"""/v1/organization/projects/{project_id}/rate_limits: a project's limits in OpenAI's format, one row per model."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.rate_limits import UNSUPPORTED, RateLimitRow, model_of, rate_limit_rows
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import Cursor, LongLimit, list_response
from llmariner.limits.authorization import authorize_subject
from llmariner.limits.rules import Subject
from llmariner.models.queries import ModelSelector
from llmariner.tenancy.principal import Caller

READ, WRITE = "api.limits.read", "api.limits.write"
Reader = Annotated[Caller, require_org_admin(READ)]
Writer = Annotated[Caller, require_org_admin(WRITE)]
_MAX_MODELS = 10_000
Threshold = Annotated[int, Field(ge=0, le=2**53)]


class RateLimitBody(Body):
    """POST …/rate_limits/{id}. Absent fields are unchanged; the last three must be 0, since nothing is measured by them."""

    max_requests_per_1_minute: Threshold | None = None
    max_tokens_per_1_minute: Threshold | None = None
    max_requests_per_1_day: Threshold | None = None
    max_images_per_1_minute: Threshold | None = None
    max_audio_megabytes_per_1_minute: Threshold | None = None
    batch_1_day_max_input_tokens: Threshold | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_projects_rate_limits", context)
    app.get("/v1/organization/projects/{project_id}/rate_limits")(list_rate_limits)
    app.post("/v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}")(update_rate_limit)
    return app


def list_rate_limits(
    request: Request,
    caller: Reader,
    project_id: str,
    after: Cursor = None,
    before: Cursor = None,
    limit: LongLimit = 100,
) -> dict[str, Any]:
    """The project's limits by model, for every model that it may use, including models without a limit of their own."""
    found = _rows(
        context_of(request), authorize_subject(context_of(request).database, caller, "project", project_id, READ)
    )
    if after:
        found = [row for row in found if row.model > _cursor_model(after, "after")]
    if before:
        found = [row for row in found if row.model < _cursor_model(before, "before")]
    page = found[-limit:] if before and not after else found[:limit]
    return list_response([row.to_json() for row in page], has_more=len(page) < len(found))


def update_rate_limit(
    request: Request, caller: Writer, project_id: str, rate_limit_id: str, body: RateLimitBody
) -> dict[str, Any]:
    """Set a project's limits for one model."""
    context = context_of(request)
    subject = authorize_subject(context.database, caller, "project", project_id, WRITE)
    model = model_of(rate_limit_id)
    if model not in {row.model for row in _rows(context, subject)}:
        raise NotFound(f"No rate limit with id '{rate_limit_id}' in this project.", param="rate_limit_id")
    for name in UNSUPPORTED:
        if getattr(body, name):
            raise InvalidRequest(f"'{name}' can't be limited here: leave it out, or send 0.", param=name)
    sent = {
        "requests_per_minute": body.max_requests_per_1_minute,
        "tokens_per_minute": body.max_tokens_per_1_minute,
        "requests_per_day": body.max_requests_per_1_day,
    }
    thresholds = {name: value for name, value in sent.items() if value is not None}
    if thresholds:
        context.limits.put(caller, subject, model, thresholds)
    return next(row for row in _rows(context, subject) if row.model == model).to_json()


def _rows(context: Context, subject: Subject) -> list[RateLimitRow]:
    models = [model.name for model in context.registry.page(ModelSelector(subject.id), after=None, limit=_MAX_MODELS)]
    return rate_limit_rows(models, context.limits.for_subject(subject), context.leases.default_limits)


def _cursor_model(row_id: str, param: str) -> str:
    """The model of a cursor, whose row may be deleted. Raises InvalidRequest for an invalid row id."""
    try:
        return model_of(row_id)
    except NotFound:
        raise InvalidRequest(
            f"'{param}' must be the id of a row, such as the last one of the page before.", param=param
        ) from None


handle = http_function(build)
