"""/v1/organization/usage: the organization's usage in time buckets, in OpenAI's format, and its single requests."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from llmariner.context import Context
from llmariner.errors import NotFound, PermissionDenied
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.organization_admins import is_installation_owner, require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import filter_values
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.showback import export as compute_export
from llmariner.showback.reports import DIMENSIONS, ComputeQuery, compute_sums
from llmariner.showback.representation import compute_result
from llmariner.tenancy.principal import Caller
from llmariner.usage import export
from llmariner.usage.aggregation import TOKENS
from llmariner.usage.buckets import bucket_page, validate_group_by
from llmariner.usage.cost_breakdown import cost_breakdown
from llmariner.usage.reports import UsageQuery, UsageReports

Admin = Annotated[Caller, require_org_admin("api.api_usages.read")]
Reader = Annotated[Caller, require_scope("api.api_usages.read", objects="member")]
BucketWidth = Literal["1m", "1h", "1d"]
PageCursor = Annotated[str | None, Query(max_length=64)]

_BUCKET_LIMITS = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
_COLUMNS = {"project_id": "project_id", "user_id": "user_id", "api_key_id": "key_id", "model": "model"}
_FILTERS = {"project_ids": "project_id", "user_ids": "user_id", "api_key_ids": "key_id", "models": "model"}
# OpenAI's groups that have a single value on this platform.
_CONSTANT_GROUPS: dict[str, Any] = {"batch": False, "service_tier": "default"}
_MEASURES = ("requests", *TOKENS)


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_usage", context)
    app.get("/v1/organization/usage/completions")(list_completions)
    app.get("/v1/organization/usage/compute")(list_compute)
    app.get("/v1/organization/usage/compute/allocations")(export_allocations)
    app.get("/v1/organization/usage/embeddings")(list_embeddings)
    app.get("/v1/organization/usage/requests")(export_requests)
    app.get("/v1/organization/usage/requests/{request_id}")(get_request)
    return app


def list_completions(
    request: Request,
    caller: Admin,
    start_time: Timestamp,
    end_time: Timestamp | None = None,
    bucket_width: BucketWidth = "1d",
    limit: Annotated[int | None, Query(ge=0)] = None,
    page: PageCursor = None,
    batch: bool | None = None,
) -> dict[str, Any]:
    """A page of buckets of chat completions and completions. Filters: project_ids, user_ids, api_key_ids, models."""
    groups = validate_group_by(filter_values(request, "group_by"), (*_COLUMNS, *_CONSTANT_GROUPS))
    routes = () if batch else ("chat_completions", "completions")

    def result(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "object": "organization.usage.completions.result",
            "input_tokens": row["prompt_tokens"],
            "output_tokens": row["completion_tokens"],
            "input_cached_tokens": row["cached_tokens"],
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "output_reasoning_tokens": row["reasoning_tokens"],
            "num_model_requests": row["requests"],
            **_group_fields(row, groups),
            **{name: value if name in groups else None for name, value in _CONSTANT_GROUPS.items()},
        }

    return _page(request, caller, start_time, end_time, bucket_width, limit, page, groups, routes, result)


def list_compute(
    request: Request,
    caller: Admin,
    start_time: Timestamp,
    end_time: Timestamp | None = None,
    bucket_width: Literal["1h", "1d"] = "1d",
    limit: Annotated[int | None, Query(ge=0)] = None,
    page: PageCursor = None,
    installation: bool = False,
) -> dict[str, Any]:
    """A page of buckets of GPUs, cores and memory that workloads held, with their cost.

    `installation`: of all organizations, for owners of the installation. Filters: project_ids, user_ids, kinds,
    workload_ids, devices, cluster_ids.
    """
    if installation and not is_installation_owner(request, caller):
        raise PermissionDenied("Only an owner of the default organization, who runs the installation, sees all of it.")
    groups = validate_group_by(filter_values(request, "group_by"), DIMENSIONS)
    where = {name: asked for name in DIMENSIONS if (asked := filter_values(request, f"{name}s"))}
    default, maximum = _BUCKET_LIMITS[bucket_width]
    current = bucket_page(
        start=start_time, end=end_time, width=bucket_width, limit=min(limit or default, maximum), page=page
    )
    organization_id = None if installation else caller.organization_id
    query = ComputeQuery(organization_id, current.start, current.end, current.width, time.time(), groups, where)
    rows = compute_sums(context_of(request).database, query)
    return current.render(rows, lambda of_bucket: [compute_result(row, groups) for row in of_bucket])


def export_allocations(
    request: Request, caller: Admin, start_time: Timestamp = 0, end_time: Timestamp | None = None
) -> StreamingResponse:
    """What workloads of the organization held in [start_time, end_time), streamed as CSV, one line from start to end."""
    end = time.time() if end_time is None else end_time
    text = compute_export.csv_lines(context_of(request).database, caller.organization_id, start_time, end)
    headers = {"content-disposition": 'attachment; filename="allocations.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


def list_embeddings(
    request: Request,
    caller: Admin,
    start_time: Timestamp,
    end_time: Timestamp | None = None,
    bucket_width: BucketWidth = "1d",
    limit: Annotated[int | None, Query(ge=0)] = None,
    page: PageCursor = None,
) -> dict[str, Any]:
    """A page of buckets of embeddings. Filters: project_ids, user_ids, api_key_ids, models."""
    groups = validate_group_by(filter_values(request, "group_by"), tuple(_COLUMNS))

    def result(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "object": "organization.usage.embeddings.result",
            "input_tokens": row["prompt_tokens"],
            "num_model_requests": row["requests"],
            **_group_fields(row, groups),
        }

    return _page(request, caller, start_time, end_time, bucket_width, limit, page, groups, ("embeddings",), result)


def export_requests(
    request: Request, caller: Admin, start_time: Timestamp = 0, end_time: Timestamp | None = None
) -> StreamingResponse:
    """Stored requests that were admitted in [start_time, end_time), streamed as CSV, oldest first.

    Filters: project_ids, user_ids, api_key_ids, models.
    """
    selection = export.ExportFilter(caller.organization_id, start_time, end_time, _filters(request))
    text = export.csv_lines(context_of(request).database, selection)
    headers = {"content-disposition": 'attachment; filename="requests.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


def get_request(request: Request, caller: Reader, request_id: str) -> dict[str, Any]:
    """One request, with the events and price of its cost. Raises NotFound for other projects, except to owners."""
    try:
        found = cost_breakdown(context_of(request).database, request_id)
    except NotFound:
        found = None
    in_organization = found is not None and found["organization_id"] == caller.organization_id
    if found is None or not (
        in_organization and (caller.is_owner or found["project_id"] == caller.key_owner.project_id)
    ):
        raise NotFound(
            f"No request with id '{request_id}' is kept. The id is in the answer's header 'x-request-id'.",
            param="request_id",
        )
    return found


def _page(
    request: Request,
    caller: Caller,
    start: int,
    end: int | None,
    width: BucketWidth,
    limit: int | None,
    page: str | None,
    groups: tuple[str, ...],
    routes: tuple[str, ...],
    result: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    default, maximum = _BUCKET_LIMITS[width]
    current = bucket_page(start=start, end=end, width=width, limit=min(limit or default, maximum), page=page)
    columns = tuple(_COLUMNS[name] for name in groups if name in _COLUMNS)
    where = {"route": routes, **_filters(request)}
    query = UsageQuery(caller.organization_id, current.start, current.end, columns, current.width, where, _MEASURES)
    rows = UsageReports(context_of(request).database).sums(query)
    return current.render(rows, lambda of_bucket: [result(row) for row in of_bucket])


def _filters(request: Request) -> dict[str, tuple[str, ...]]:
    return {column: selected for name, column in _FILTERS.items() if (selected := filter_values(request, name))}


def _group_fields(row: dict[str, Any], groups: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[column] if name in groups else None for name, column in _COLUMNS.items()}


handle = http_function(build)
