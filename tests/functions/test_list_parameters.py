"""Lists of the admin API have the bounds, defaults and filters of OpenAI's specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.tenancy.tables import custom_roles

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation

Call = Callable[..., HttpResponse]
ALERT = {
    "currency": "USD",
    "interval": "month",
    "threshold_amount": 10**9,
    "notification_channel": {"type": "email", "recipients": ["ann@example.org"]},
}
OF_PERSON, OF_GROUP = "/organization/users/USER/roles", "/organization/groups/GROUP/roles"
IN_PROJECT, GROUP_IN_PROJECT = "/projects/VISION/users/USER/roles", "/projects/VISION/groups/GROUP/roles"
MOST = {
    "/organization/projects": 100,
    "/organization/users": 100,
    "/organization/invites": 100,
    "/organization/spend_alerts": 100,
    "/organization/audit_logs": 100,
    "/organization/groups": 1000,
    "/organization/groups/GROUP/users": 1000,
    "/organization/roles": 1000,
    "/projects/VISION/roles": 1000,
    "/organization/projects/VISION/groups": 100,
    "/organization/projects/VISION/spend_alerts": 100,
    "/organization/projects/VISION/rate_limits": 1000,
    OF_PERSON: 1000,
    OF_GROUP: 1000,
    IN_PROJECT: 1000,
    GROUP_IN_PROJECT: 1000,
}


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Iterator[Company]:
    issuer = "LLMARINER_OIDC_ISSUER"
    installation.context.env[issuer] = "https://issuer.example"  # type: ignore[index]
    yield Company(installation, ask)
    del installation.context.env[issuer]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def call(company: Company, router: Any, in_process: InProcessClient) -> Call:
    """`call("GET", path)` as the owner of the company; VISION, USER and GROUP stand for ids."""
    headers = {"authorization": f"Bearer {company.secrets['boss']}"}
    ids = {"VISION": company.vision, "USER": company.people["mia"].user_id}

    def called(method: str, path: str, body: Any = None, query: str = "") -> HttpResponse:
        for word, id_ in ids.items():
            path = path.replace(word, id_)
        return in_process.send(router, HttpRequest(method, f"/v1{path}", body, headers, query))

    ids["GROUP"] = called("POST", "/organization/groups", {"name": "staff"}).json["id"]
    for path, role in ((OF_GROUP, "reader"), (GROUP_IN_PROJECT, "viewer")):
        assert called("POST", path, {"role_id": role}).status == 200
    return called


@pytest.mark.parametrize("path", MOST)
def test_a_list_accepts_openais_page_sizes(path: str, call: Call) -> None:
    assert call("GET", path, query=f"limit={MOST[path]}").status == 200
    assert_error(call("GET", path, query=f"limit={MOST[path] + 1}"), 400, "invalid_value")


@pytest.mark.parametrize(
    ("path", "body", "newest_first"),
    [
        ("/organization/admin_api_keys", lambda number: {"name": f"ordered {number}"}, False),
        ("/organization/groups", lambda number: {"name": f"ordered {number}"}, False),
        ("/organization/spend_alerts", lambda _: ALERT, False),
        ("/organization/projects/VISION/spend_alerts", lambda _: ALERT, False),
        ("/organization/projects", lambda number: {"name": f"ordered {number}"}, True),
        ("/organization/invites", lambda number: {"email": f"ordered-{number}@example.org", "role": "reader"}, True),
    ],
)
def test_a_list_has_openais_default_order(
    path: str, body: Callable[[int], Any], newest_first: bool, call: Call
) -> None:
    made = [call("POST", path, body(number)).json["id"] for number in range(2)]
    listed = [each["id"] for each in call("GET", path, query="limit=100").json["data"] if each["id"] in made]
    assert listed == sorted(made, reverse=newest_first)


@pytest.mark.parametrize(
    ("path", "held"),
    [(OF_PERSON, "reader"), (IN_PROJECT, "member"), (OF_GROUP, "reader"), (GROUP_IN_PROJECT, "viewer")],
)
def test_a_users_roles_are_a_paginated_list(path: str, held: str, call: Call) -> None:
    for query in ("", "limit=0", "order=desc", "after=owner"):
        assert [role["id"] for role in call("GET", path, query=query).json["data"]] == [held]
    past = call("GET", path, query=f"after={held}").json
    assert (past["data"], past["has_more"], past["next"]) == ([], False, None)
    assert call("GET", path, query="after=nobody").error["param"] == "after"


def test_all_roles_are_on_one_page_by_default(call: Call, company: Company, installation: Installation) -> None:
    common = {"organization_id": company.id, "project_id": None, "scopes": "api.events.read", "description": ""}
    rows = [{**common, "id": f"role_{number:04}", "name": f"role {number}", "created_at": 1} for number in range(120)]
    with installation.context.database.write() as session:
        session.insert_many_if_absent(custom_roles, rows)
    for query in ("", "limit=0"):
        answer = call("GET", "/organization/roles", query=query).json
        assert (len(answer["data"]) > 120, answer["has_more"]) == (True, False)


def test_an_unsupported_filter_value_matches_nothing(call: Call) -> None:
    acts = call("GET", "/organization/audit_logs", query="tenant_only=true").json
    assert (acts["data"], acts["has_more"]) == ([], False)
    assert call("GET", "/organization/audit_logs", query="tenant_only=false").json["data"]
    group = "/organization/projects/VISION/groups/GROUP"
    assert call("GET", group, query="group_type=group").status == 200
    assert_error(call("GET", group, query="group_type=tenant_group"), 404, "not_found")


def test_a_user_may_be_named_by_matching_id_and_email(call: Call, company: Company) -> None:
    users = "/organization/projects/VISION/users"
    rob = {"user_id": company.people["rob"].user_id, "role": "viewer"}
    other = call("POST", users, {**rob, "email": company.email("sam")})
    assert_error(other, 400, None)
    assert other.error["param"] == "email"
    assert call("POST", users, {**rob, "email": company.email("rob")}).json["id"] == rob["user_id"]
    assert_error(call("POST", users, {"role": "viewer"}), 400, None)
