"""HEAD and URLs that are not text, on every route of every function and in the standalone mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from .conftest import Ask
from .declared_routes import CLUSTER_LOCAL, FUNCTIONS, ROUTES, DeclaredRoute
from .http_calls import HttpRequest, HttpResponse, InProcessClient
from .installation import Installation

READS = [route for route in ROUTES if route.method == "GET"]
WITH_PARAMETERS = [route for route in ROUTES if "{" in route.path and route.function not in CLUSTER_LOCAL]
NOT_TEXT = ["%ff", "%C3", "%ED%A0%80", "a%00b"]


def caller(route: DeclaredRoute, installation: Installation) -> dict[str, str]:
    return {"authorization": f"Bearer {installation.credential(route.function)}"}


@pytest.mark.parametrize("route", READS, ids=str)
def test_head_has_the_response_of_get_without_the_body(
    route: DeclaredRoute, ask: Ask, router: Any, in_process: InProcessClient, installation: Installation
) -> None:
    http_request = HttpRequest("GET", route.example, None, caller(route, installation))
    whole = ask(route.function, http_request)
    head = replace(http_request, method="HEAD")
    routed = [] if route.function in CLUSTER_LOCAL else [in_process.send(router, head)]
    for answer in (ask(route.function, head), *routed):
        assert answer.status == whole.status
        assert answer.body == b""
        assert answer.headers["content-type"] == whole.headers["content-type"]
        assert set(answer.headers) == set(whole.headers)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_probes_respond_to_head(name: str, ask: Ask) -> None:
    answer = ask(name, HttpRequest("HEAD", "/health/live"))
    assert (answer.status, answer.body) == (200, b"")


def test_the_health_route_responds_to_head(router: Any, in_process: InProcessClient) -> None:
    answer = in_process.send(router, HttpRequest("HEAD", "/health"))
    assert (answer.status, answer.body) == (200, b"")


def test_a_route_without_get_lists_its_methods_for_head(ask: Ask, admin: dict[str, str]) -> None:
    answer = ask("chat_completions", HttpRequest("HEAD", "/v1/chat/completions", None, admin))
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")


def asked_raw(in_process: InProcessClient, application: Any, http_request: HttpRequest) -> HttpResponse:
    """As a server passes it: the decoded path, and the raw one beside it."""
    path = unquote_to_bytes(http_request.path).decode(errors="replace")
    return in_process.send(application, replace(http_request, path=path), raw_path=http_request.path.encode())


@pytest.mark.parametrize("text", NOT_TEXT)
@pytest.mark.parametrize("route", WITH_PARAMETERS, ids=str)
def test_a_path_that_is_not_text_is_rejected(
    route: DeclaredRoute, text: str, router: Any, in_process: InProcessClient, installation: Installation
) -> None:
    path = route.path
    while "{" in path:
        path = path[: path.index("{")] + text + path[path.index("}") + 1 :]
    http_request = HttpRequest(route.method, path, {} if route.method != "GET" else None, caller(route, installation))
    for application in (router, installation.application(route.function)):
        answer = asked_raw(in_process, application, http_request)
        assert answer.status == 400
        assert answer.error["code"] == "invalid_url"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("text", NOT_TEXT)
@pytest.mark.parametrize("route", READS, ids=str)
def test_a_query_that_is_not_text_is_rejected(
    route: DeclaredRoute, text: str, ask: Ask, installation: Installation
) -> None:
    answer = ask(route.function, HttpRequest("GET", route.example, None, caller(route, installation), f"after={text}"))
    assert (answer.status, answer.error["code"]) == (400, "invalid_url")


@pytest.mark.parametrize("path", ["/v1/models/caf%C3%A9", "/v1/models/a%2Fb", "/v1/models/%F0%9F%9A%80"])
def test_a_path_in_any_script_is_routed(
    path: str, router: Any, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    answer = asked_raw(in_process, router, HttpRequest("GET", path, None, admin))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
