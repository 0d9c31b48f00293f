"""GET /v1/api_usages: usage of the organization for its owners, of their project for other callers."""

import time
from typing import Annotated, Any

from fastapi import Query, Request
from sqlalchemy import select

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.timestamps import MIN_NANOSECONDS, unit_mistake
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import api_keys, users
from llmariner.usage.aggregation import TOKENS
from llmariner.usage.prices import NANO_PER_DOLLAR
from llmariner.usage.reports import UsageQuery, UsageReports

Reader = Annotated[Caller, require_scope("api.api_usages.read", objects="member")]
TimestampQuery = Annotated[float | None, Query(ge=0, le=1e20)]
_DEFAULT_SPAN = 31 * 86400
_DAY = 86400
_GROUP_COLUMNS = {"key": "key_id", "model": "model", "user": "user_id", "project": "project_id", "day": "start"}
_COUNTS = ("requests", "successful_requests", *TOKENS)
_USAGE_MEASURES = (
    "requests",
    "ended_requests",
    "prompt_tokens",
    "completion_tokens",
    "total_microseconds",
    "first_token_microseconds",
    "first_tokens",
)


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("api_usages", context)
    app.get("/v1/api_usages")(list_usage)
    return app


def list_usage(
    request: Request,
    caller: Reader,
    start_time: TimestampQuery = None,
    end_time: TimestampQuery = None,
    group_by: str = "key,model,day",
) -> dict[str, Any]:
    """Sums over [start_time, end_time), in seconds or nanoseconds since 1970; by default the last 31 days.

    `usages` has LLMariner's format, by user, key and model; `data` is grouped by `group_by`.
    """
    end = _seconds(end_time, "end_time") if end_time is not None else time.time() + 1
    start = _seconds(start_time, "start_time") if start_time is not None else max(0.0, end - _DEFAULT_SPAN)
    groups = tuple(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    database = context_of(request).database
    return {
        "object": "list",
        "start_time": start,
        "end_time": end,
        "group_by": list(groups),
        "data": _grouped(database, caller, start, end, groups),
        "usages": _llmariner_usages(database, caller, start, end),
    }


def _seconds(timestamp: float, param: str) -> float:
    """Seconds from seconds or, as LLMariner's clients send them, nanoseconds. Raises InvalidRequest for other units."""
    if timestamp >= MIN_NANOSECONDS:
        return timestamp / 1e9
    if mistake := unit_mistake(timestamp):
        raise InvalidRequest(f"Invalid '{param}': {mistake}, or nanoseconds.", param=param, code="invalid_value")
    return timestamp


def _visible_filter(caller: Caller) -> dict[str, tuple[str, ...]]:
    return {} if caller.is_owner else {"project_id": (caller.key_owner.project_id,)}


def _grouped(
    database: Database, caller: Caller, start: float, end: float, groups: tuple[str, ...]
) -> list[dict[str, Any]]:
    for name in groups:
        if name not in _GROUP_COLUMNS:
            raise InvalidRequest(f"'group_by' must be of {', '.join(_GROUP_COLUMNS)}, not '{name}'.", param="group_by")
    columns = tuple(_GROUP_COLUMNS[name] for name in groups if name != "day")
    width = _DAY if "day" in groups else None
    measures = (*_COUNTS, "cost")
    rows = UsageReports(database).sums(
        UsageQuery(caller.organization_id, start, end, columns, width, _visible_filter(caller), measures)
    )
    data = [
        {name: row[_GROUP_COLUMNS[name]] for name in groups}
        | {name: row[name] for name in _COUNTS}
        | {"cost_usd": row["cost"] / NANO_PER_DOLLAR}
        for row in rows
    ]
    return sorted(data, key=lambda row: -row["day"]) if "day" in groups else data


def _llmariner_usages(database: Database, caller: Caller, start: float, end: float) -> list[dict[str, Any]]:
    """LLMariner's usage records, without hidden users."""
    with database.read() as session:
        names = {row.id: row.name for row in session.rows(select(api_keys.c.id, api_keys.c.name))}
        hidden = {row.id for row in session.rows(select(users.c.id).where(users.c.hidden))}
    groups = ("user_id", "key_id", "model")
    rows = UsageReports(database).sums(
        UsageQuery(caller.organization_id, start, end, groups, where=_visible_filter(caller), measures=_USAGE_MEASURES)
    )
    return [
        {
            "user_id": row["user_id"],
            "api_key_id": row["key_id"],
            "api_key_name": names.get(row["key_id"], ""),
            "model_id": row["model"],
            "total_requests": row["requests"],
            "avg_latency_ms": _average(row["total_microseconds"], row["ended_requests"]),
            "avg_time_to_first_token_ms": _average(row["first_token_microseconds"], row["first_tokens"]),
            "total_prompt_tokens": row["prompt_tokens"],
            "total_completion_tokens": row["completion_tokens"],
        }
        for row in rows
        if row["user_id"] not in hidden
    ]


def _average(microseconds: int, count: int) -> float:
    return microseconds / count / 1000 if count else 0.0


handle = http_function(build)
