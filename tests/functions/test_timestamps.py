"""Timestamps in another unit than seconds are rejected on every route, with the unit and the likely value."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse

NOW = int(time.time())
UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
# Function, path, and the parameter that takes a moment.
READ = [
    ("api_usage", "/v1/api-usage/model-usage-summaries", "filter.start_timestamp"),
    ("api_usage", "/v1/api-usage/model-usage-summaries", "filter.end_timestamp"),
    ("organization_usage", "/v1/organization/usage/completions", "start_time"),
    ("organization_usage", "/v1/organization/usage/completions", "end_time"),
    ("organization_usage", "/v1/organization/usage/embeddings", "start_time"),
    ("organization_usage", "/v1/organization/usage/embeddings", "end_time"),
    ("organization_usage", "/v1/organization/usage/compute", "start_time"),
    ("organization_usage", "/v1/organization/usage/compute", "end_time"),
    ("organization_usage", "/v1/organization/usage/compute/allocations", "start_time"),
    ("organization_usage", "/v1/organization/usage/compute/allocations", "end_time"),
    ("organization_usage", "/v1/organization/usage/requests", "start_time"),
    ("organization_usage", "/v1/organization/usage/requests", "end_time"),
    ("organization_costs", "/v1/organization/costs", "start_time"),
    ("organization_costs", "/v1/organization/costs", "end_time"),
    ("organization_audit_logs", "/v1/organization/audit_logs", "effective_at[gte]"),
    ("prices", "/v1/prices", "at"),
]


def get(ask: Ask, admin: dict[str, str], function: str, path: str, **query: object) -> HttpResponse:
    return ask(
        function, HttpRequest("GET", path, b"", admin, "&".join(f"{name}={value}" for name, value in query.items()))
    )


def refused(answer: HttpResponse, param: str, unit: str) -> None:
    assert answer.status == 400, answer.body
    assert (answer.error["param"], answer.error["code"]) == (param, "invalid_value")
    assert f"looks like {unit}" in answer.error["message"]
    assert f"here {NOW}" in answer.error["message"]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("function", "path", "param"), READ)
def test_a_timestamp_in_another_unit_is_rejected(
    function: str, path: str, param: str, unit: str, ask: Ask, admin: dict[str, str]
) -> None:
    query: dict[str, Any] = {"start_time": NOW - 100} if param == "end_time" else {}
    refused(get(ask, admin, function, path, **query, **{param: NOW * UNITS[unit]}), param, unit)
    given = {"start_time": NOW - 100, **query, param: NOW - 50 if "start" in param else NOW}
    known = given if param in ("start_time", "end_time") else {param: NOW}
    assert get(ask, admin, function, path, **known).status == 200


@pytest.mark.parametrize("param", ["start_time", "end_time"])
@pytest.mark.parametrize("unit", ["milliseconds", "microseconds"])
def test_llmariners_own_route_accepts_nanoseconds_only(unit: str, param: str, ask: Ask, admin: dict[str, str]) -> None:
    refused(get(ask, admin, "api_usages", "/v1/api_usages", **{param: NOW * UNITS[unit]}), param, unit)
    in_both = [
        get(ask, admin, "api_usages", "/v1/api_usages", start_time=(NOW - 3600) * scale, end_time=NOW * scale)
        for scale in (1, 10**9)
    ]
    assert [answer.status for answer in in_both] == [200, 200]
    assert in_both[0].json == in_both[1].json


@pytest.mark.parametrize("unit", UNITS)
def test_prices_start_and_keys_expire_in_seconds(unit: str, ask: Ask, admin: dict[str, str]) -> None:
    price = {"model": "m", "prompt": 1, "completion": 1, "valid_from": NOW * UNITS[unit]}
    body = {**admin, "content-type": "application/json"}
    refused(ask("prices", HttpRequest("POST", "/v1/prices", json.dumps(price).encode(), body)), "valid_from", unit)
    made = ask("api_keys", HttpRequest("POST", "/v1/api_keys", json.dumps({"name": f"ends-{unit}"}).encode(), body))
    assert made.status == 200, made.body
    change = {"api_key": {"expires_at": NOW * UNITS[unit]}, "update_mask": "expires_at"}
    path = f"/v1/api_keys/{made.json['id']}"
    answer = ask("api_keys", HttpRequest("PATCH", path, json.dumps(change).encode(), body))
    assert answer.status == 400, answer.body
    assert f"looks like {unit}" in answer.error["message"]
