"""GET /v1/organization/costs: the costs of the organization's tokens and compute by day, in OpenAI's format."""

import time
from dataclasses import dataclass, replace
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
    lines = [line for row in rows for line in (_token_items(row, columns) if by_item else [_token_line(row, columns)])]
    if "key_id" not in where:  # no key holds compute
        held = _compute_rows(request, caller, current, columns, where)
        lines += [line for row in held for line in _compute_items(row, columns)]
    if items:
        lines = [line for line in lines if line.item in items]
    if "line_item" not in groups:
        lines = _sums(lines)
    return current.render(
        lines, lambda of_bucket: [_result(caller, groups, line) for line in of_bucket], start=lambda line: line.start
    )


@dataclass(frozen=True)
class CostLine:
    """Nano-dollars of a day, of tokens or of compute, for an owner: a value for each column that is grouped by.

    `item` None: of all line items. `quantity`: tokens, requests or seconds; None: of a sum.
    """

    start: int
    owner: tuple[str | None, ...]
    item: str | None
    cost: int
    quantity: float | None = None


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
    return compute_sums(context_of(request).database, asked)


def _compute_items(row: dict[str, Any], columns: tuple[str, ...]) -> list[CostLine]:
    """The line items of what was held on a device, in seconds."""
    device = row["device"] or "cpu"
    parts = (
        ("gpu_seconds", row["gpu_cost"], row["gpu_ms"] / 1000),
        ("core_seconds", row["core_cost"], row["millicore_ms"] / 1e6),
        ("memory_gib_seconds", row["memory_cost"], row["mib_ms"] / 1024 / 1000),
    )
    owner = tuple(row.get(name) or None for name in columns)
    return [CostLine(row["start"], owner, f"{device}, {name}", cost, number) for name, cost, number in parts if cost]


def _token_items(row: dict[str, Any], columns: tuple[str, ...]) -> list[CostLine]:
    """The line items of a model's cost, in tokens or requests."""
    costs = (row["prompt_cost"], row["cached_cost"], row["completion_cost"], row["training_cost"])
    parts = (
        ("input_tokens", costs[0], row["prompt_tokens"] - row["cached_tokens"]),
        ("cached_input_tokens", costs[1], row["cached_tokens"]),
        ("output_tokens", costs[2], row["completion_tokens"]),
        ("trained_tokens", costs[3], row["trained_tokens"]),
        ("requests", row["cost"] - sum(costs), row["requests"]),
    )
    found = (
        replace(_token_line(row, columns), item=f"{row['model']}, {name}", cost=cost, quantity=number)
        for name, cost, number in parts
    )
    return [line for line in found if line.cost]


def _token_line(row: dict[str, Any], columns: tuple[str, ...]) -> CostLine:
    return CostLine(row["start"], tuple(row[name] for name in columns), None, row["cost"])


def _sums(lines: list[CostLine]) -> list[CostLine]:
    """A line per day and owner."""
    sums: dict[tuple[Any, ...], int] = {}
    for line in lines:
        sums[line.start, line.owner] = sums.get((line.start, line.owner), 0) + line.cost
    return [CostLine(start, owner, None, cost) for (start, owner), cost in sums.items()]


def _result(caller: Caller, groups: tuple[str, ...], line: CostLine) -> dict[str, Any]:
    by_item = "line_item" in groups
    owner = dict(zip((name for name in _COLUMNS if name in groups), line.owner, strict=True))
    return {
        "object": "organization.costs.result",
        "amount": {"value": line.cost / NANO_PER_DOLLAR, "currency": "usd"},
        "line_item": line.item if by_item else None,
        "quantity": line.quantity if by_item else None,
        "organization_id": caller.organization_id,
        **{name: owner.get(name) for name in _COLUMNS},
    }


handle = http_function(build)
