"""GET /v1/organization/costs: the costs of the organization's tokens and compute by day, in OpenAI's format."""

import time
from typing import Annotated, Any, Literal

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import filter_values
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.tenancy.principal import Caller
from llmariner.usage.buckets import BucketPage, bucket_page, validate_group_by
from llmariner.usage.prices import NANO_PER_DOLLAR
from llmariner.usage.reports import COST_PARTS, UsageQuery, UsageReports

Reader = Annotated[Caller, require_org_admin("api.api_usages.read")]
_COLUMNS = {"project_id": "project_id", "user_id": "user_id", "api_key_id": "key_id"}
_LINE_ITEM_MEASURES = (*COST_PARTS, "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "trained_tokens")


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("organization_costs", context)
    app.get("/v1/organization/costs")(list_costs)
    return app


def list_costs(
    request: Request,
    caller: Reader,
    start_time: Timestamp,
    end_time: Timestamp | None = None,
    bucket_width: Literal["1d"] = "1d",
    limit: Annotated[int, Query(ge=0, le=180)] = 7,
    page: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """A page of daily buckets. Filters: project_ids, user_ids, api_key_ids, line_items; `group_by`: the same fields."""
    groups = validate_group_by(filter_values(request, "group_by"), (*_COLUMNS, "line_item"))
    items = filter_values(request, "line_items")
    by_item = "line_item" in groups or bool(items)
    current = bucket_page(start=start_time, end=end_time, width=bucket_width, limit=limit or 7, page=page)
    columns = tuple(column for name, column in _COLUMNS.items() if name in groups)
    where = {column: asked for name, column in _COLUMNS.items() if (asked := filter_values(request, f"{name}s"))}
    query = UsageQuery(
        caller.organization_id,
        current.start,
        current.end,
        (*columns, "model") if by_item else columns,
        current.width,
        where,
        ("cost", *(_LINE_ITEM_MEASURES if by_item else ())),
    )
    rows = UsageReports(context_of(request).database).sums(query)
    if "key_id" not in where:  # no key holds compute
        rows += _compute_rows(request, caller, current, columns, where)

    def results(of_bucket: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [
            line
            for row in of_bucket
            for line in (_items_of(row) if by_item else [(None, row["cost"], None, row)])
            if by_item or line[1] or "gpu_ms" not in row
        ]
        if items:
            found = [line for line in found if line[0] in items]
        if "line_item" not in groups:
            found = _sum_by_columns(found, columns)
        return [_result(caller, groups, *line) for line in found]

    return current.render(rows, results)


LineItem = tuple[str | None, int, float | None, dict[str, Any]]


def _compute_rows(
    request: Request, caller: Caller, current: BucketPage, columns: tuple[str, ...], where: dict[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    """What budgets are charged for GPUs, cores and memory, by device and columns."""
    owners = tuple(name for name in ("project_id", "user_id") if name in columns)
    asked = ComputeQuery(
        caller.organization_id,
        current.start,
        current.end,
        current.width,
        time.time(),
        (*owners, "device"),
        where,
        charged_only=True,
    )
    rows = compute_sums(context_of(request).database, asked)
    return [{**row, **{name: row[name] or None for name in owners}, "key_id": None} for row in rows]


def _items_of(row: dict[str, Any]) -> list[LineItem]:
    return _compute_items(row) if "gpu_ms" in row else _line_items(row)


def _compute_items(row: dict[str, Any]) -> list[LineItem]:
    """The line items of what was held on a device: name, nano-dollars, seconds."""
    device = row["device"] or "cpu"
    lines: list[LineItem] = [
        (f"{device}, gpu_seconds", row["gpu_cost"], row["gpu_ms"] / 1000, row),
        (f"{device}, core_seconds", row["core_cost"], row["millicore_ms"] / 1e6, row),
        (f"{device}, memory_gib_seconds", row["memory_cost"], row["mib_ms"] / 1024 / 1000, row),
    ]
    return [line for line in lines if line[1]]


def _line_items(row: dict[str, Any]) -> list[LineItem]:
    """The line items of a model's cost: name, nano-dollars, number of tokens or requests."""
    model = row["model"]
    parts = (row["prompt_cost"], row["cached_cost"], row["completion_cost"], row["training_cost"])
    lines: list[LineItem] = [
        (f"{model}, input_tokens", parts[0], row["prompt_tokens"] - row["cached_tokens"], row),
        (f"{model}, cached_input_tokens", parts[1], row["cached_tokens"], row),
        (f"{model}, output_tokens", parts[2], row["completion_tokens"], row),
        (f"{model}, trained_tokens", parts[3], row["trained_tokens"], row),
        (f"{model}, requests", row["cost"] - sum(parts), row["requests"], row),
    ]
    return [line for line in lines if line[1]]


def _sum_by_columns(lines: list[LineItem], columns: tuple[str, ...]) -> list[LineItem]:
    sums: dict[tuple[Any, ...], LineItem] = {}
    for line in lines:
        key = tuple(line[3][name] for name in columns)
        known = sums.get(key)
        sums[key] = (None, line[1] + (known[1] if known else 0), None, line[3])
    return list(sums.values())


def _result(
    caller: Caller, groups: tuple[str, ...], item: str | None, cost: int, quantity: float | None, row: dict[str, Any]
) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": cost / NANO_PER_DOLLAR, "currency": "usd"},
        "line_item": item if "line_item" in groups else None,
        "quantity": quantity if "line_item" in groups else None,
        "organization_id": caller.organization_id,
        **{name: row[column] if name in groups else None for name, column in _COLUMNS.items()},
    }


handle = http_function(build)
