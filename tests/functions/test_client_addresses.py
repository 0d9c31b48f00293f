"""Client addresses: keys that are restricted to networks, and the addresses in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .conftest import Ask
from .declared_routes import AUTHENTICATED, TOKEN_PATH, DeclaredRoute
from .http_calls import HttpRequest, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT

NewBound = Callable[..., dict[str, str]]


@pytest.fixture
def bound(installation: Installation, request: pytest.FixtureRequest) -> NewBound:
    """Headers of a new key of the administrator that may be used from these networks only."""
    numbers = iter(range(1000))

    def made(*networks: str) -> dict[str, str]:
        name = f"{request.node.name} {next(numbers)}"
        new = NewKey(name, OWNER_SCOPES, allowed_sources=networks)
        _, secret = installation.context.keys.create(installation.owner, new)
        return {"authorization": f"Bearer {secret}"}

    return made


@pytest.fixture(scope="module")
def elsewhere(installation: Installation) -> dict[str, str]:
    """Headers of a key of the administrator that this process, which is at 127.0.0.1, may not use."""
    new = NewKey("from elsewhere", OWNER_SCOPES, allowed_sources=("192.0.2.0/24", "2001:db8::/32"))
    _, secret = installation.context.keys.create(installation.owner, new)
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("route", [route for route in AUTHENTICATED if route.function not in TOKEN_PATH], ids=str)
def test_a_key_from_a_forbidden_network_is_rejected_on_every_route(
    route: DeclaredRoute, elsewhere: dict[str, str], ask: Ask
) -> None:
    assert_error(
        ask(route.function, HttpRequest(route.method, route.example, {}, elsewhere)), 403, "source_not_allowed"
    )


@pytest.mark.parametrize("networks", [("127.0.0.1",), ("192.0.2.0/24", "127.0.0.0/8"), ("0.0.0.0/0",)])
def test_a_key_from_a_permitted_network_is_accepted(networks: tuple[str, ...], bound: NewBound, ask: Ask) -> None:
    assert ask("models", HttpRequest("GET", "/v1/models", None, bound(*networks))).status == 200


def test_an_untrusted_forwarded_address_is_ignored(bound: NewBound, ask: Ask) -> None:
    headers = {**bound("192.0.2.7"), "x-forwarded-for": "192.0.2.7"}
    assert_error(ask("models", HttpRequest("GET", "/v1/models", None, headers)), 403, "source_not_allowed")


FORWARDED = {
    "one hop": ("192.0.2.7", 200),
    "a caller who names another before itself": ("192.0.2.7, 203.0.113.9", 403),
    "through a proxy of ours": ("192.0.2.7, 127.0.0.2", 200),
    "nothing": ("", 403),
    "no address": ("unknown", 403),
}


@pytest.mark.parametrize(("said", "status"), FORWARDED.values(), ids=FORWARDED)
def test_a_trusted_proxys_forwarded_address_is_used(
    said: str, status: int, bound: NewBound, installation: Installation, in_process: InProcessClient
) -> None:
    application = load(CHECKOUT / "functions/models")
    application.use_context(Context({**installation.environment, "LLMARINER_TRUSTED_PROXIES": "127.0.0.0/8"}))
    headers = {**bound("192.0.2.7"), "x-forwarded-for": said}
    answer = in_process.send(application, HttpRequest("GET", "/v1/models", None, headers))
    assert answer.status == status, answer.body


def test_the_audit_log_has_the_client_address(ask: Ask, admin: dict[str, str]) -> None:
    made = ask("organization_projects", HttpRequest("POST", "/v1/organization/projects", {"name": "from here"}, admin))
    query = f"resource_ids[]={made.json['id']}"
    found: list[Any] = ask(
        "organization_audit_logs", HttpRequest("GET", "/v1/organization/audit_logs", None, admin, query)
    ).json["data"]
    assert [act["actor"]["api_key"]["ip_address"] for act in found] == ["127.0.0.1"]
