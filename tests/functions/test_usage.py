"""Usage, costs and prices through the API: LLMariner's and OpenAI's formats, and their visibility."""

from __future__ import annotations

import csv
import io
import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from openai import AsyncOpenAI
from openai.types.admin.organization import UsageCompletionsResponse, UsageCostsResponse, UsageEmbeddingsResponse

from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key
from llmariner.tenancy.roles.scopes import PROJECT_ROLES
from llmariner.tenancy.tables import organization_users, project_users, users
from llmariner.usage.aggregation import ROLLUPS
from llmariner.usage.tables import ledger_events, ledger_floor, ledger_requests, prices

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation

HOUR, DAY = 3600, 86400
START = 20000 * DAY
NUMBERS = itertools.count()
Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def _empty(installation: Installation) -> None:
    """No requests and no prices but the test's own."""
    with installation.context.database.write() as session:
        for table in (ledger_events, ledger_requests, prices, *(rollup.table for rollup in ROLLUPS)):
            session.run(table.delete())
        session.upsert(ledger_floor, [{"id": 1, "admitted_at": 0}])


@pytest.fixture
def call(ask: Ask, admin: dict[str, str]) -> Call:
    """`call("/v1/organization/costs", start_time=1)`: the JSON of the answer, as the administrator unless `by` says whom."""

    def called(path: str, *, by: dict[str, str] | None = None, query: str = "", **fields: Any) -> Any:
        return answered(ask, path, by or admin, query or urlencode(fields, doseq=True)).json

    return called


def answered(ask: Ask, path: str, by: dict[str, str], query: str = "", body: Any = None) -> HttpResponse:
    names = {
        "/v1/api_usages": "api_usages",
        "/v1/api-usage": "api_usage",
        "/v1/organization/costs": "organization_costs",
    }
    names |= {"/v1/organization/usage": "organization_usage", "/v1/prices": "prices"}
    name = next(name for prefix, name in names.items() if path.startswith(prefix))
    return ask(name, HttpRequest("POST" if body else "GET", path, body, by, query))


@pytest.fixture(scope="session")
def member(installation: Installation) -> tuple[KeyOwner, dict[str, str]]:
    """A user of another project of the administrator's organization, and the headers of their key."""
    owner = KeyOwner("user_member", installation.spare_project, installation.owner.organization_id)
    with installation.context.database.write() as session:
        session.add(users, id=owner.user_id, email="member@example.org", created_at=1)
        joined = {"user_id": owner.user_id, "organization_id": owner.organization_id, "created_at": 1}
        session.add(organization_users, **joined, role="reader")
        session.add(project_users, **joined, project_id=owner.project_id, role="member")
    _, secret = installation.context.keys.create(owner, NewKey("theirs", PROJECT_ROLES["member"] | {"api.prices.read"}))
    return owner, {"authorization": f"Bearer {secret}"}


def used(installation: Installation, owner: KeyOwner | None = None, **values: Any) -> str:
    """A request that ended, in the ledger; returns its id."""
    owner = owner or installation.owner
    request_id = f"req_usage{next(NUMBERS)}"
    said: dict[str, Any] = {
        "request_id": request_id,
        "sequence": 2**31 - 1,
        "kind": "closed",
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "key_id": "key_1",
        "model": "m",
        "route": "chat_completions",
        "admitted_at": float(START),
        "outcome": "succeeded",
        "status": 200,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cached_tokens": 40,
        "reasoning_tokens": 5,
        "waited_seconds": 0.5,
        "first_token_seconds": 1.0,
        "total_seconds": 3.0,
    } | values
    installation.context.ledger.record([{"at": said["admitted_at"] + 3, **said}])
    return request_id


def priced(ask: Ask, admin: dict[str, str], **values: Any) -> dict[str, Any]:
    """A price that begins now."""
    body = {"model": "m", "prompt": 2, "cached_prompt": 0.5, "completion": 10.25, "request": 0.001} | values
    made: dict[str, Any] = answered(ask, "/v1/prices", admin, body=body).json
    return made


def test_usage_is_grouped_by_user_key_and_model(call: Call, installation: Installation) -> None:
    key, secret = create_bootstrap_key(installation.context.keys, installation.owner, "counted")
    assert secret
    for _ in range(2):
        used(installation, key_id=key.id)
    used(installation, key_id=key.id, outcome="failed", status=502, first_token_seconds=None, total_seconds=0.0)
    nanoseconds = [at * 10**9 for at in (START, START + HOUR)]
    found = call("/v1/api_usages", start_time=nanoseconds[0], end_time=nanoseconds[1])
    assert found["usages"] == [
        {
            "user_id": installation.owner.user_id,
            "api_key_id": key.id,
            "api_key_name": "counted",
            "model_id": "m",
            "total_requests": 3,
            "avg_latency_ms": 2000.0,
            "avg_time_to_first_token_ms": 1000.0,
            "total_prompt_tokens": 300,
            "total_completion_tokens": 60,
        }
    ]
    assert found == call("/v1/api_usages", start_time=START, end_time=START + HOUR), "seconds are as good"
    assert call("/v1/api_usages")["usages"] == [], "longer ago than 31 days"


def test_usage_is_grouped_by_the_requested_columns(call: Call, installation: Installation) -> None:
    used(installation)
    used(installation, model="n", admitted_at=START + DAY + 0.5)
    [newer, older] = call("/v1/api_usages", start_time=START, group_by="model, day")["data"]
    assert (newer["model"], newer["day"], older["day"]) == ("n", START + DAY, START)
    assert (older["requests"], older["successful_requests"], older["cached_tokens"]) == (1, 1, 40)
    assert (older["reasoning_tokens"], older["cost_usd"]) == (5, 0.0)
    assert len(call("/v1/api_usages", start_time=START, group_by="")["data"]) == 1
    assert [row["user"] for row in call("/v1/api_usages", start_time=START, group_by="user")["data"]] == [
        installation.owner.user_id
    ]


def test_summaries_of_models_have_intervals(call: Call, installation: Installation) -> None:
    for at, model in ((0, "m"), (1799, "m"), (1801, "n"), (HOUR, "m")):
        used(installation, admitted_at=float(START + at), model=model)
    used(installation, admitted_at=float(START + HOUR), outcome="failed", status=502)
    asked = {"filter.start_timestamp": START, "filter.end_timestamp": START + DAY}
    found = call("/v1/api-usage/model-usage-summaries", **asked)["datapoints"]
    assert [(point["timestamp"], len(point["values"])) for point in found] == [(START, 2), (START + HOUR, 1)]
    assert found[0]["values"][0] == {
        "model_id": "m",
        "total_requests": 2,
        "total_prompt_tokens": 200,
        "total_completion_tokens": 40,
    }
    assert found[1]["values"][0]["total_requests"] == 2
    good = call("/v1/api-usage/model-usage-summaries", **asked, **{"filter.status_code": 200})["datapoints"]
    assert good[1]["values"][0]["total_requests"] == 1
    finer = call("/v1/api-usage/model-usage-summaries", **asked, interval_sec=1800)["datapoints"]
    assert [point["timestamp"] - START for point in finer] == [0, 1800, HOUR]
    assert call("/v1/api-usage/model-usage-summaries")["datapoints"] == []


def test_owners_see_their_organization_and_members_their_project(
    call: Call, installation: Installation, member: tuple[KeyOwner, dict[str, str]], outsider: dict[str, str]
) -> None:
    owner, theirs = member
    mine, also = used(installation), used(installation, owner)
    used(installation, installation.outsider)
    for by, count in ((None, 2), (theirs, 1), (outsider, 1)):
        rows = call("/v1/api_usages", start_time=START, end_time=START + DAY, by=by)["usages"]
        assert sum(row["total_requests"] for row in rows) == count
    for by, count in ((None, 2), (theirs, 1), (outsider, 1)):
        asked = {"filter.start_timestamp": START, "filter.end_timestamp": START + DAY, "by": by}
        [point] = call("/v1/api-usage/model-usage-summaries", **asked)["datapoints"]
        assert point["values"][0]["total_requests"] == count
    assert call(f"/v1/organization/usage/requests/{also}")["id"] == also
    assert call(f"/v1/organization/usage/requests/{also}", by=theirs)["id"] == also
    assert call(f"/v1/organization/usage/requests/{mine}", by=theirs)["error"]["code"] == "not_found"
    assert call(f"/v1/organization/usage/requests/{mine}", by=outsider)["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["usage/completions", "usage/embeddings", "usage/requests", "costs"])
def test_organization_reports_are_visible_to_its_administrators_only(
    path: str, ask: Ask, installation: Installation, member: tuple[KeyOwner, dict[str, str]]
) -> None:
    refused = answered(ask, f"/v1/organization/{path}", member[1], "start_time=1")
    assert_error(refused, 403, "insufficient_permissions")


def test_completion_usage_has_openais_buckets(call: Call, installation: Installation) -> None:
    used(installation)
    used(installation, route="completions", model="n", admitted_at=START + HOUR + 0.5)
    used(installation, route="embeddings", model="vectors")
    used(installation, route="tokenize")
    answer = call("/v1/organization/usage/completions", start_time=START + 7, end_time=START + 3 * DAY)
    page = UsageCompletionsResponse.model_validate(answer)
    assert (page.object, page.has_more, page.next_page) == ("page", False, None)
    assert [(bucket.start_time, bucket.end_time) for bucket in page.data] == [
        (START + day * DAY, START + (day + 1) * DAY) for day in range(3)
    ]
    assert answer["data"][0]["results"] == [
        {
            "object": "organization.usage.completions.result",
            "input_tokens": 200,
            "output_tokens": 40,
            "input_cached_tokens": 80,
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "output_reasoning_tokens": 10,
            "num_model_requests": 2,
            "project_id": None,
            "user_id": None,
            "api_key_id": None,
            "model": None,
            "batch": None,
            "service_tier": None,
        }
    ]
    assert answer["data"][1]["results"] == []
    embedded = call("/v1/organization/usage/embeddings", start_time=START, end_time=START + 1, group_by="model")
    UsageEmbeddingsResponse.model_validate(embedded)
    assert embedded["data"][0]["results"] == [
        {
            "object": "organization.usage.embeddings.result",
            "input_tokens": 100,
            "num_model_requests": 1,
            "project_id": None,
            "user_id": None,
            "api_key_id": None,
            "model": "vectors",
        }
    ]


def test_completion_usage_is_grouped_filtered_and_paginated(call: Call, installation: Installation) -> None:
    for hour in range(5):
        used(installation, admitted_at=START + hour * HOUR + 0.5, model=("m", "n")[hour % 2])
    asked = {"start_time": START, "end_time": START + 5 * HOUR, "bucket_width": "1h"}
    path = "/v1/organization/usage/completions"
    grouped = call(path, query=urlencode([*asked.items(), ("group_by[]", "model"), ("group_by[]", "batch")]))
    assert [(bucket["results"][0]["model"]) for bucket in grouped["data"]] == ["m", "n", "m", "n", "m"]
    assert grouped["data"][0]["results"][0]["batch"] is False
    assert [bucket["results"] != [] for bucket in call(path, **asked, models=["n"])["data"]] == [False, True] * 2 + [
        False
    ]
    assert call(path, **asked, **{"project_ids[]": "proj_nobody"})["data"][0]["results"] == []
    assert call(path, **asked, batch="true")["data"][0]["results"] == []
    first = call(path, **asked, limit=2)
    second = call(path, **asked, limit=2, page=first["next_page"])
    third = call(path, **asked, limit=2, page=second["next_page"])
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    assert first["data"] + second["data"] + third["data"] == call(path, **asked)["data"]
    minutes = call(path, start_time=START, end_time=START + HOUR, bucket_width="1m")
    assert (len(minutes["data"]), minutes["data"][0]["results"][0]["num_model_requests"]) == (60, 1)


def test_costs_are_exact_to_the_nano_dollar(
    call: Call, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    now = time.time()
    price = priced(ask, admin)
    midnight = int(now) // DAY * DAY
    # 60 prompt tokens at $2 a million, 40 cached at $0.5, 20 of output at $10.25, $0.001 for the request.
    expected = (120_000 + 20_000 + 205_000 + 1_000_000) / 10**9
    for _ in range(3):
        used(installation, admitted_at=now + 1)
    asked = {"start_time": midnight, "end_time": midnight + DAY}
    answer = call("/v1/organization/costs", **asked)
    UsageCostsResponse.model_validate(answer)
    [result] = answer["data"][0]["results"]
    assert result["amount"] == {"value": 3 * expected, "currency": "usd"}
    assert (result["line_item"], result["quantity"], result["project_id"]) == (None, None, None)
    items = call("/v1/organization/costs", **asked, group_by=["line_item", "project_id"])["data"][0]["results"]
    assert {item["line_item"]: (item["amount"]["value"], item["quantity"]) for item in items} == {
        "m, input_tokens": (0.00036, 180),
        "m, cached_input_tokens": (0.00006, 120),
        "m, output_tokens": (0.000615, 60),
        "m, requests": (0.003, 3),
    }
    assert {item["project_id"] for item in items} == {installation.owner.project_id}
    [some] = call("/v1/organization/costs", **asked, line_items=["m, output_tokens", "m, requests"])["data"][0][
        "results"
    ]
    assert (some["amount"]["value"], some["line_item"]) == (0.003615, None)
    assert call("/v1/api_usages", start_time=midnight, group_by="model")["data"][0]["cost_usd"] == 3 * expected
    assert price["valid_from"] == pytest.approx(now, abs=30)


def test_the_cost_breakdown_of_a_request(
    call: Call, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    price = priced(ask, admin)
    name = used(installation, admitted_at=time.time() + 1)
    found = call(f"/v1/organization/usage/requests/{name}")
    assert found["amount"] == {"value": 0.001345, "currency": "usd"}
    assert sum(item["amount_usd"] for item in found["line_items"]) == pytest.approx(0.001345)
    assert [(item["line_item"], item["quantity"], item["price_usd"]) for item in found["line_items"]] == [
        ("input_tokens", 60, 2.0),
        ("cached_input_tokens", 40, 0.5),
        ("output_tokens", 20, 10.25),
        ("requests", 1, 0.001),
    ]
    assert (found["price_id"], found["rebuilt_equals_stored"]) == (price["id"], True)
    [event] = found["events"]
    assert (event["kind"], event["completion_tokens"], event["amount_usd"]) == ("closed", 20, 0.001345)
    assert call("/v1/organization/usage/requests/req_nobody")["error"]["code"] == "not_found"


def test_trained_tokens_are_in_usage_costs_breakdown_and_export(
    call: Call, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    price = priced(ask, admin, training=3.5)
    assert price["training"] == 3.5
    counts: dict[str, Any] = dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"), 0
    )
    model: dict[str, Any] = {
        "model": "ft:m:acme:x",
        "adapter": "ft:m:acme:x",
        "base_model": "m",
        "route": "fine_tuning",
    }
    now = time.time() + 1
    name = used(installation, admitted_at=now, trained_tokens=2_000_000, **counts, **model)
    midnight = int(now) // DAY * DAY
    [row] = call("/v1/api_usages", start_time=midnight, group_by="model")["data"]
    assert (row["model"], row["trained_tokens"], row["cost_usd"]) == ("ft:m:acme:x", 2_000_000, 7.0)
    asked = {"start_time": midnight, "end_time": midnight + DAY, "group_by": ["line_item"]}
    [item] = call("/v1/organization/costs", **asked)["data"][0]["results"]
    found = (item["line_item"], item["amount"]["value"], item["quantity"])
    assert found == ("ft:m:acme:x, trained_tokens", 7.0, 2_000_000)
    breakdown = call(f"/v1/organization/usage/requests/{name}")
    assert breakdown["rebuilt_equals_stored"]
    paid = {"line_item": "trained_tokens", "quantity": 2_000_000, "price_usd": 3.5, "amount_usd": 7.0}
    assert breakdown["line_items"] == [paid]
    answer = answered(ask, "/v1/organization/usage/requests", admin)
    [line] = csv.DictReader(io.StringIO(answer.body.decode()))
    assert (line["trained_tokens"], line["cost_usd"]) == ("2000000", "7.000000000")


def test_an_export_has_one_line_per_request_oldest_first(
    ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    names = [used(installation, admitted_at=START + 10.0 - number // 2, model='a,"b"') for number in range(5)]
    used(installation, installation.outsider)
    answer = answered(ask, "/v1/organization/usage/requests", admin, f"start_time={START}")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [row["request_id"] for row in rows] == [names[4], *names[2:4], *names[:2]]
    assert (rows[0]["model"], rows[0]["cost_usd"], rows[0]["adapter"], rows[0]["status"]) == (
        'a,"b"',
        "0.000000000",
        "",
        "200",
    )
    some = answered(
        ask, "/v1/organization/usage/requests", admin, f"start_time={START + 9}&end_time={START + 10}&models=x"
    )
    assert len(some.body.splitlines()) == 1, "the names"
    some = answered(ask, "/v1/organization/usage/requests", admin, f"start_time={START + 9}&end_time={START + 10}")
    assert len(some.body.splitlines()) == 3


def test_an_export_spans_many_pages(
    ask: Ask, admin: dict[str, str], installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.usage.export._CHUNK", 2)
    names = [used(installation, admitted_at=START + number // 3) for number in range(9)]
    answer = answered(ask, "/v1/organization/usage/requests", admin)
    assert [line.split(",")[0] for line in answer.body.decode().splitlines()[1:]] == names


def test_prices_are_listed_and_set_in_dollars(ask: Ask, admin: dict[str, str], call: Call) -> None:
    made = priced(ask, admin)
    assert {
        name: made[name] for name in ("object", "model", "currency", "prompt", "cached_prompt", "completion", "request")
    } == {
        "object": "price",
        "model": "m",
        "currency": "usd",
        "prompt": 2.0,
        "cached_prompt": 0.5,
        "completion": 10.25,
        "request": 0.001,
    }
    assert made["valid_to"] is None
    later = priced(ask, admin, cached_prompt=None, valid_from=made["valid_from"] + 1000)
    assert later["cached_prompt"] == 2.0
    assert [price["id"] for price in call("/v1/prices")["data"]] == [made["id"], later["id"]]
    assert [price["id"] for price in call("/v1/prices", at=made["valid_from"] + 2000)["data"]] == [later["id"]]
    assert call("/v1/prices", model="other")["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": -1}, "prompt"),
        ({"prompt": 0.0000000001}, "prompt"),
        ({"completion": "much"}, "completion"),
        ({"request": 10**7}, "request"),
        ({"training": -1}, "training"),
        ({"model": ""}, "model"),
        ({"valid_from": 1}, "valid_from"),
        ({"currency": "eur"}, "currency"),
    ],
)
def test_an_invalid_price_is_rejected(body: dict[str, Any], param: str, ask: Ask, admin: dict[str, str]) -> None:
    asked = {"model": "m", "prompt": 1, "completion": 1} | body
    refused = answered(ask, "/v1/prices", admin, body=asked)
    assert refused.status == 400, refused.body
    assert refused.error["param"] == param


def test_only_operators_set_prices(
    ask: Ask, outsider: dict[str, str], member: tuple[KeyOwner, dict[str, str]], call: Call
) -> None:
    body = {"model": "m", "prompt": 1, "completion": 1}
    for by in (outsider, member[1]):
        assert_error(answered(ask, "/v1/prices", by, body=body), 403, "insufficient_permissions")
    assert call("/v1/prices", by=member[1])["data"] == []


def test_openais_client_reads_pages_of_usage_and_costs(
    router: Any, in_process: InProcessClient, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    priced(ask, admin)
    now = int(time.time())
    for at in (now + 1, now + 2):
        used(installation, admitted_at=float(at))
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=router, raise_app_exceptions=True))
    secret = installation.keys.admin
    said: dict[str, Any] = {"api_key": "unused", "admin_api_key": secret, "base_url": "http://platform.test/v1"}
    client = AsyncOpenAI(http_client=transport, max_retries=0, _strict_response_validation=True, **said)

    async def work() -> None:
        usage, start = client.admin.organization.usage, now - 2 * DAY
        first = await usage.completions(start_time=start, bucket_width="1d", limit=2, group_by=["model", "user_id"])
        assert (len(first.data), first.has_more) == (2, True)
        last = await usage.completions(start_time=start, limit=2, group_by=["model"], page=str(first.next_page))
        results = [result for bucket in last.data for result in bucket.results]
        assert [(result.model, result.num_model_requests) for result in results] == [("m", 2)]  # type: ignore[union-attr]
        costs = await usage.costs(start_time=start, group_by=["line_item"], project_ids=[installation.owner.project_id])
        amounts: list[Any] = [result.amount.value for bucket in costs.data for result in bucket.results]  # type: ignore[union-attr]
        assert sum(amounts) == pytest.approx(2 * 0.001345)

    in_process.runner.run(work())
