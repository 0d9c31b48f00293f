"""Paging of every list: `after` may be the id of a deleted item, and `limit=0` means the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.identifiers import new_id

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, InProcessClient, assert_error
from .installation import Installation

ALERT = {
    "currency": "USD",
    "interval": "month",
    "threshold_amount": 10**9,
    "notification_channel": {"type": "email", "recipients": ["ann@example.org"]},
}
ROLE = {"permissions": ["api.events.read"]}
Body = Callable[[int], dict[str, Any]]


def named(number: int) -> dict[str, Any]:
    return {"name": f"paged {number}"}


# List: what makes an item of it, where its item is deleted, and the prefix of its ids.
LISTS: dict[str, tuple[str, Body, str]] = {
    "/organization/projects": ("", named, "proj"),
    "/organization/admin_api_keys": ("", named, "key"),
    "/organization/groups": ("", named, "group"),
    "/organization/roles": ("", lambda number: {"role_name": f"paged {number}", **ROLE}, "role"),
    "/organization/invites": ("", lambda n: {"email": f"paged-{n}@example.org", "role": "reader"}, "invite"),
    "/organization/spend_alerts": ("", lambda _: ALERT, "alert"),
    "/organization/projects/VISION/spend_alerts": ("", lambda _: ALERT, "alert"),
    "/organization/projects/VISION/service_accounts": ("", named, "user"),
    "/organization/projects/VISION/api_keys": ("", named, "key"),
    "/projects/VISION/roles": ("", lambda number: {"role_name": f"paged {number}", **ROLE}, "role"),
    "/vector_stores": ("", named, "vs"),
    "/organization/users": (
        "/organizations/HERE/users",
        lambda number: {"user_id": f"paged-{number}@pages.example", "role": "reader"},
        "user",
    ),
}
OTHERS = {
    "/organization/projects/VISION/users": "user",
    "/organization/projects/VISION/groups": "group",
    "/organization/projects/VISION/rate_limits": "rl",
    "/organization/audit_logs": "audit_log",
}
OLDEST_FIRST = ("/groups", "/admin_api_keys", "/spend_alerts")


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Iterator[Company]:
    issuer = "LLMARINER_OIDC_ISSUER"
    installation.context.env[issuer] = "https://issuer.example"  # type: ignore[index]
    yield Company(installation, ask)
    del installation.context.env[issuer]  # type: ignore[attr-defined]


@pytest.fixture
def call(company: Company, router: Any, in_process: InProcessClient) -> Any:
    """`call("GET", path)` as the owner of the company, whose ids stand for the words in capitals."""
    headers = {"authorization": f"Bearer {company.secrets['boss']}"}

    def called(method: str, path: str, body: Any = None, query: str = "") -> Any:
        there = path.replace("VISION", company.vision).replace("HERE", company.id)
        return in_process.send(router, HttpRequest(method, f"/v1{there}", body, headers, query))

    return called


def test_ids_contain_their_creation_time_and_sort_by_it() -> None:
    ids = [new_id("x") for _ in range(50)]
    assert sorted(ids) == ids or len({each[:12] for each in ids}) < len(ids)


@pytest.mark.parametrize("path", LISTS)
def test_deleting_while_paging_reaches_the_end(path: str, call: Any) -> None:
    makes, body, _ = LISTS[path]
    made = set()
    for number in range(5):
        answer = call("POST", makes or path, body(number))
        assert answer.status == 200, answer.body
        made.add(answer.json.get("internal_user_id") or answer.json["id"])
    met: list[str] = []
    after = ""
    for _ in range(50):
        answer = call("GET", path, None, f"limit=2{after}")
        assert answer.status == 200, answer.body
        found = [each["id"] for each in answer.json["data"]]
        met += found
        for id_ in made & set(found):
            ending = (
                call("POST", f"{path}/{id_}/archive") if path.endswith("/projects") else call("DELETE", f"{path}/{id_}")
            )
            assert ending.status == 200, ending.body
        if not answer.json["has_more"]:
            break
        after = f"&after={answer.json.get('next') or answer.json['last_id']}"
    assert made <= set(met)
    assert len(met) == len(set(met))


@pytest.mark.parametrize("path", [*LISTS, *OTHERS])
def test_an_invalid_cursor_is_rejected(path: str, call: Any) -> None:
    for said in ("nobody", "run_0", "%27", "x" * 60):
        answer = call("GET", path, None, f"after={said}")
        assert answer.status == 400, answer.body
        assert answer.error["param"] == "after"


@pytest.mark.parametrize("path", [path for path, (_, _, prefix) in LISTS.items() if prefix != "role"])
def test_a_deleted_item_remains_a_valid_cursor(path: str, call: Any) -> None:
    prefix = LISTS[path][2]
    order = "&order=desc" if path.endswith(OLDEST_FIRST) else ""
    everything = [each["id"] for each in call("GET", path, None, f"limit=100{order}").json["data"]]
    after = call("GET", path, None, f"limit=100&after={new_id(prefix)}{order}").json["data"]
    assert [each["id"] for each in after] == everything
    assert call("GET", path, None, f"limit=100&after={prefix}_0{order}").json["data"] == []


@pytest.mark.parametrize("path", [*LISTS, *OTHERS, "/models", "/events"])
def test_a_limit_of_zero_means_the_default(path: str, call: Any) -> None:
    assert call("GET", path, None, "limit=0").json == call("GET", path).json
    for limit in ("-1", "1001", "x"):
        assert_error(call("GET", path, None, f"limit={limit}"), 400, "invalid_value")


@pytest.mark.parametrize("path", ["/organization/costs", "/organization/usage/completions"])
def test_a_limit_of_zero_buckets_means_the_default(path: str, call: Any) -> None:
    span = "start_time=86400&end_time=8640000"
    assert call("GET", path, None, f"{span}&limit=0").json == call("GET", path, None, span).json
