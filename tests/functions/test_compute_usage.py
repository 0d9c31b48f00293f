"""What workloads held, through the API: buckets, groups, prices, exports, and who may see them."""

from __future__ import annotations

import csv
import io
import time
from typing import Any

import pytest

from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.tables import allocations, compute_prices
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.roles.scopes import PROJECT_ROLES
from llmariner.tenancy.tables import organization_users, project_users, users
from llmariner.usage.tables import charge_policies

from .conftest import Ask
from .http_calls import HttpRequest
from .installation import Installation

DAY, HOUR = 86400, 3600
START = 20000 * DAY
USAGE, PRICES = "/v1/organization/usage/compute", "/v1/prices/compute"
GIB = 2**30


@pytest.fixture(autouse=True)
def store(installation: Installation) -> Allocations:
    """No allocations and no prices but the test's own."""
    database: Database = installation.context.database
    with database.write() as session:
        session.run(allocations.delete())
        session.run(compute_prices.delete())
    return Allocations(database)


def hold(
    store: Allocations, id_: str, project: str, start: float, end: float, *, gpus: int = 0, device: str = ""
) -> None:
    amounts = {"gpu": gpus, "cpu": 2000, "memory": 4 * GIB}
    store.begin(Allocation(id_, "batch_job", f"bj-{id_}", project, amounts, round(start * 1000), device))
    store.end(id_, round(end * 1000))


def results(answer: Any) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.body
    return [{**each, "start": bucket["start_time"]} for bucket in answer.json["data"] for each in bucket["results"]]


def test_buckets_groups_and_filters(
    ask: Ask, admin: dict[str, str], store: Allocations, installation: Installation
) -> None:
    mine, spare = installation.owner.project_id, installation.spare_project
    hold(store, "a", mine, START + 10, START + 12.5, gpus=2, device="a100")
    hold(store, "b", spare, START + DAY - HOUR, START + DAY + HOUR)

    def asked(**query: Any) -> list[dict[str, Any]]:
        text = "&".join(f"{name}={value}" for name, value in {"start_time": START, "limit": 2, **query}.items())
        return results(ask("organization_usage", HttpRequest("GET", USAGE, b"", admin, text)))

    by_project = asked(group_by="project_id")
    assert [
        (each["start"], each["project_id"], each["gpu_seconds"], each["core_seconds"], each["memory_gib_seconds"])
        for each in by_project
    ] == [(START, mine, 5.0, 5.0, 10.0), (START, spare, 0, 7200.0, 14400.0), (START + DAY, spare, 0, 7200.0, 14400.0)]
    assert by_project[0]["object"] == "organization.usage.compute.result"
    assert by_project[0]["amount"] == {"value": 0, "currency": "usd"}
    assert by_project[0]["user_id"] is by_project[0]["workload_id"] is None
    assert [(each["device"], each["num_workloads"]) for each in asked(group_by="device")] == [
        (None, 1),
        ("a100", 1),
        (None, 1),
    ]
    assert [each["gpu_seconds"] for each in asked(**{"devices[]": "a100"})] == [5.0]
    assert asked(project_ids="proj_unknown") == []
    assert [each["workload_id"] for each in asked(group_by="workload_id", bucket_width="1h", limit=1)] == ["bj-a"]


def test_prices_apply_from_when_they_are_set(ask: Ask, admin: dict[str, str], store: Allocations) -> None:
    body = {"device": "a100", "gpu_hour": 3.5, "core_hour": "0.05"}
    made = ask("prices", HttpRequest("POST", PRICES, body, admin)).json
    assert {name: made[name] for name in (*body, "gib_hour", "valid_to", "currency")} == {
        "device": "a100",
        "gpu_hour": 3.5,
        "core_hour": 0.05,
        "gib_hour": 0.0,
        "valid_to": None,
        "currency": "usd",
    }
    later = {"device": "a100", "gpu_hour": 4, "valid_from": made["valid_from"] + 1000}
    assert ask("prices", HttpRequest("POST", PRICES, later, admin)).status == 200
    listed = ask("prices", HttpRequest("GET", PRICES, b"", admin, "device=a100")).json
    assert [(each["gpu_hour"], each["valid_to"]) for each in listed["data"]] == [
        (3.5, later["valid_from"]),
        (4.0, None),
    ]
    page = ask("prices", HttpRequest("GET", PRICES, b"", admin, "limit=1")).json
    assert (len(page["data"]), page["has_more"]) == (1, True)


def test_what_pays_for_own_devices_is_chosen(
    ask: Ask, admin: dict[str, str], store: Allocations, installation: Installation
) -> None:
    charge = "/v1/prices/charge"
    installation.context.database.transact(lambda session: session.run(charge_policies.delete()))
    assert ask("prices", HttpRequest("GET", charge, b"", admin)).json["data"] == []
    made = ask("prices", HttpRequest("POST", charge, {"charge": "tokens"}, admin)).json
    assert (made["object"], made["charge"], made["valid_to"]) == ("charge_policy", "tokens", None)
    later = ask("prices", HttpRequest("POST", charge, {"charge": "both", "valid_from": made["valid_from"] + 9}, admin))
    assert later.status == 200
    page = ask("prices", HttpRequest("GET", charge, b"", admin, "limit=1")).json
    rest = ask("prices", HttpRequest("GET", charge, b"", admin, f"after={page['data'][0]['id']}")).json
    assert (page["has_more"], rest["has_more"]) == (True, False)
    listed = sorted([*page["data"], *rest["data"]], key=lambda each: float(each["valid_from"]))
    assert [(each["charge"], each["valid_to"]) for each in listed] == [
        ("tokens", later.json["valid_from"]),
        ("both", None),
    ]
    for body, param in (
        ({"charge": "all"}, "charge"),
        ({}, "charge"),
        ({"charge": "both", "valid_from": 9}, "valid_from"),
    ):
        answer = ask("prices", HttpRequest("POST", charge, body, admin))
        assert (answer.status, answer.error["param"]) == (400, param)
    installation.context.database.transact(lambda session: session.run(charge_policies.delete()))


def test_costs_have_compute_as_line_items_that_add_up(
    ask: Ask, admin: dict[str, str], store: Allocations, installation: Installation
) -> None:
    mine, spare = installation.owner.project_id, installation.spare_project
    rate = {"id": "price_c", "device": "a100", "valid_from": 0.0, "created_at": 0}
    with installation.context.database.write() as session:
        session.add(compute_prices, **rate, gpu_hour=3_600_000, core_hour=7_200_000, gib_hour=3_600_000)
    hold(store, "a", mine, START + 10, START + 12.5, gpus=2, device="a100")
    hold(store, "b", spare, START + 5, START + 6, gpus=1, device="a100")
    hold(store, "c", spare, START + 5, START + 6)  # without a price
    # A model that all projects share is charged by its tokens.
    amounts = {"gpu": 8, "cpu": 1000, "memory": GIB}
    store.begin(Allocation("shared", "model", "m-of-all", None, amounts, START * 1000, "a100"))
    store.end("shared", (START + HOUR) * 1000)

    def asked(query: str = "") -> list[dict[str, Any]]:
        text = f"start_time={START}&limit=1{query}"
        return results(ask("organization_costs", HttpRequest("GET", "/v1/organization/costs", b"", admin, text)))

    items = asked("&group_by=line_item&group_by=project_id")
    found = {(each["project_id"], each["line_item"]): (each["amount"]["value"], each["quantity"]) for each in items}
    assert found == {
        (mine, "a100, gpu_seconds"): (5e-6, 5.0),
        (mine, "a100, core_seconds"): (1e-5, 5.0),
        (mine, "a100, memory_gib_seconds"): (1e-5, 10.0),
        (spare, "a100, gpu_seconds"): (1e-6, 1.0),
        (spare, "a100, core_seconds"): (4e-6, 2.0),
        (spare, "a100, memory_gib_seconds"): (4e-6, 4.0),
    }
    [whole] = asked()
    assert (whole["amount"]["value"], whole["line_item"], whole["project_id"]) == (3.4e-5, None, None)
    assert {each["project_id"]: each["amount"]["value"] for each in asked("&group_by=project_id")} == {
        mine: 2.5e-5,
        spare: 9e-6,
    }
    assert [each["amount"]["value"] for each in asked("&line_items=a100,%20gpu_seconds")] == [6e-6]
    assert [each["amount"]["value"] for each in asked(f"&project_ids={spare}")] == [9e-6]
    assert asked("&api_key_ids=key_1") == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"gpu_hour": 1}, "device"),
        ({"device": "a" * 129}, "device"),
        ({"device": "a", "gpu_hour": -1}, "gpu_hour"),
        ({"device": "a", "core_hour": 10**7}, "core_hour"),
        ({"device": "a", "gib_hour": "much"}, "gib_hour"),
        ({"device": "a", "gpu_hour": "0.0000000001"}, "gpu_hour"),
        ({"device": "a", "valid_from": 1_700_000_000}, "valid_from"),
    ],
)
def test_a_wrong_price_is_refused(body: dict[str, Any], param: str, ask: Ask, admin: dict[str, str]) -> None:
    answer = ask("prices", HttpRequest("POST", PRICES, body, admin))
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        (f"start_time={START}&bucket_width=1m", "bucket_width"),
        (f"start_time={START}&group_by=color", "group_by"),
        (f"start_time={START}&end_time={START}", "end_time"),
        (f"start_time={START}&page=page_1", "page"),
    ],
)
def test_a_wrong_question_is_refused(query: str, param: str, ask: Ask, admin: dict[str, str]) -> None:
    answer = ask("organization_usage", HttpRequest("GET", USAGE, b"", admin, query))
    assert (answer.status, answer.error["param"]) == (400, param)


def test_members_and_other_organizations_see_nothing_of_it(
    ask: Ask, admin: dict[str, str], store: Allocations, installation: Installation
) -> None:
    hold(store, "a", installation.owner.project_id, START, START + 5)
    owner = KeyOwner("user_of_compute", installation.spare_project, installation.owner.organization_id)
    with installation.context.database.write() as session:
        session.insert_if_absent(users, [{"id": owner.user_id, "email": "compute@example.org", "created_at": 1}])
        joined = {"user_id": owner.user_id, "organization_id": owner.organization_id, "created_at": 1}
        session.insert_if_absent(organization_users, [{**joined, "role": "reader"}])
        session.insert_if_absent(project_users, [{**joined, "project_id": owner.project_id, "role": "member"}])
    _, secret = installation.context.keys.create(owner, NewKey("m", frozenset(PROJECT_ROLES["member"])))
    member = {"authorization": f"Bearer {secret}"}
    for function, request in (
        ("organization_usage", HttpRequest("GET", USAGE, b"", member, f"start_time={START}")),
        ("organization_usage", HttpRequest("GET", f"{USAGE}/allocations", b"", member)),
        ("prices", HttpRequest("POST", PRICES, {"device": "*"}, member)),
    ):
        assert ask(function, request).status == 403
    everything = f"start_time={START}&limit=1&installation=true&group_by=organization_id"
    seen = results(ask("organization_usage", HttpRequest("GET", USAGE, b"", admin, everything)))
    assert [each["organization_id"] for each in seen] == [installation.owner.organization_id]


def test_an_export_has_a_line_from_start_to_end(
    ask: Ask, admin: dict[str, str], store: Allocations, installation: Installation
) -> None:
    mine = installation.owner.project_id
    hold(store, "b", mine, START + 100, START + 104.5, gpus=1, device="a100")
    hold(store, "a", mine, START + 1, START + 2)
    running = Allocation("c", "model", "m@" + mine, mine, {"cpu": 1000}, round((time.time() - 60) * 1000))
    store.begin(running)
    answer = ask("organization_usage", HttpRequest("GET", f"{USAGE}/allocations", b"", admin, ""))
    lines = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [(line["allocation_id"], line["held_seconds"], line["gpu_count"]) for line in lines[:2]] == [
        ("a", "1.0", "0"),
        ("b", "4.5", "1"),
    ]
    assert (lines[2]["workload_id"], lines[2]["ended_at"], lines[2]["cost_usd"]) == ("m", "", "0.000000000")
    assert 59 < float(lines[2]["held_seconds"]) < 600
    some = ask("organization_usage", HttpRequest("GET", f"{USAGE}/allocations", b"", admin, f"start_time={START + 50}"))
    assert [line["allocation_id"] for line in csv.DictReader(io.StringIO(some.body.decode()))] == ["b", "c"]
