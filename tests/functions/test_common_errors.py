"""Errors common to all routes: missing authentication and scopes, unknown methods and paths."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Ask
from .declared_routes import AUTHENTICATED, FUNCTIONS, ROUTES, TOKEN_PATH, DeclaredRoute
from .http_calls import HttpRequest, assert_error
from .installation import Installation

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("route", AUTHENTICATED, ids=str)
def test_every_route_requires_a_key(route: DeclaredRoute, ask: Ask) -> None:
    assert_error(ask(route.function, valid(route, {})), 401, "invalid_api_key")


@pytest.mark.parametrize("route", AUTHENTICATED, ids=str)
@pytest.mark.parametrize("which", ["unknown", "expired", "revoked", "superseded"])
def test_an_invalid_key_is_rejected(route: DeclaredRoute, which: str, ask: Ask, installation: Installation) -> None:
    secret = getattr(installation.keys, which, "sk-unknown")
    assert_error(ask(route.function, valid(route, {"authorization": f"Bearer {secret}"})), 401, "invalid_api_key")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", "bearer\tx", "Bearer \xfc\xff"])
@pytest.mark.parametrize("name", ["chat_completions", "models"])
def test_a_malformed_authorization_header_is_rejected(name: str, header: str, ask: Ask) -> None:
    route = next(route for route in AUTHENTICATED if route.function == name)
    assert_error(ask(name, valid(route, {"authorization": header})), 401, "invalid_api_key")


@pytest.mark.parametrize("name", ["chat_completions", "models"])
def test_the_scheme_is_case_insensitive(name: str, ask: Ask, installation: Installation) -> None:
    route = next(route for route in AUTHENTICATED if route.function == name)
    headers = {"authorization": f"bEARER   {installation.keys.admin} "}
    assert ask(name, valid(route, headers)).status not in (401, 403)


@pytest.mark.parametrize("route", AUTHENTICATED, ids=str)
def test_a_key_without_the_scope_is_rejected(route: DeclaredRoute, ask: Ask, installation: Installation) -> None:
    headers = {"authorization": f"Bearer {installation.keys.scopeless}"}
    assert_error(ask(route.function, valid(route, headers)), 403, "insufficient_permissions")


def paths() -> list[tuple[str, str]]:
    return sorted({(route.function, route.example) for route in ROUTES})


@pytest.mark.parametrize(("name", "path"), paths())
def test_an_unsupported_method_is_rejected(name: str, path: str, ask: Ask, admin: dict[str, str]) -> None:
    allowed = {route.method for route in ROUTES if route.function == name and route.pattern.fullmatch(path)}
    said = allowed | {"HEAD"} if "GET" in allowed else allowed
    for method in set(METHODS) - allowed:
        answer = ask(name, HttpRequest(method, path, {}, admin))
        assert_error(answer, 405, "method_not_supported")
        assert set(answer.headers["allow"].split(", ")) == said


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/health/nothing", "/v1//models", "/v1/%25", "/docs"])
def test_an_unknown_path_is_not_found(name: str, path: str, ask: Ask, admin: dict[str, str]) -> None:
    for method in METHODS:
        assert_error(ask(name, HttpRequest(method, path, None, admin)), 404, "unknown_url")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_trailing_slash_is_another_path(name: str, ask: Ask, admin: dict[str, str]) -> None:
    # Below these anything is a model's id, a path of Kubernetes' API, or a path of a notebook's server.
    below = ("/v1/models", "/v1/sessions/{cluster_id}", "/internal/sessions/", "/v1/services/notebooks/{id}")
    routes = [route for route in ROUTES if route.function == name and not route.path.startswith(below)]
    for route in routes:
        assert_error(ask(name, HttpRequest(route.method, route.example + "/", None, admin)), 404, "unknown_url")


SERVICE_TOKENS = {
    "missing": {},
    "of a user": {"authorization": "Bearer sk-unknown"},
    "of another scheme": {"authorization": "Basic x"},
    "empty": {"authorization": "Bearer "},
}


@pytest.mark.parametrize("headers", SERVICE_TOKENS.values(), ids=SERVICE_TOKENS)
def test_internal_routes_accept_service_tokens_only(headers: dict[str, str], ask: Ask) -> None:
    for operation in ("key", "model", "wake", "sleep", "status", "statuses", "changes", "record", "used", "nothing"):
        http_request = HttpRequest("POST", f"/internal/gateway/{operation}", {}, headers)
        assert_error(ask("internal_gateway", http_request), 401, "invalid_api_key")


def test_internal_routes_reject_an_administrators_key(ask: Ask, admin: dict[str, str]) -> None:
    assert_error(
        ask("internal_gateway", HttpRequest("POST", "/internal/gateway/changes", {}, admin)), 401, "invalid_api_key"
    )


def test_an_unknown_operation_is_not_found(ask: Ask, installation: Installation) -> None:
    headers = {"authorization": f"Bearer {installation.service_token}"}
    assert_error(
        ask("internal_gateway", HttpRequest("POST", "/internal/gateway/nothing", {}, headers)), 404, "unknown_url"
    )


ORGANIZATION = "/v1/organizations/{organization_id}"
PROJECT = ORGANIZATION + "/projects/{project_id}"
VALID: dict[str, Any] = {
    "POST /v1/models": {"source_repository": "LOCAL", "id": "never-made"},
    "PATCH /v1/models/{id:path}": {"config": {}, "update_mask": "config"},
    "POST /v1/api_keys": {"name": "never made"},
    "PATCH /v1/api_keys/{id}": {"name": "never made"},
    "POST /v1/api_keys/{id}:rotate": {},
    "POST /v1/organizations": {"title": "never made"},
    f"POST {ORGANIZATION}/users": {"user_id": "never@example.org", "role": "reader"},
    f"POST {ORGANIZATION}/projects": {"title": "never made"},
    f"PATCH {PROJECT}": {"title": "never made"},
    f"POST {PROJECT}/users": {"user_id": "never@example.org", "role": "member"},
    f"POST {PROJECT}/api_keys": {"name": "never made"},
}
TOKEN_BODY = {"model": "unknown", "messages": [{"role": "user"}], "prompt": "x", "input": "x", "tokens": []}


def valid(route: DeclaredRoute, headers: dict[str, str]) -> HttpRequest:
    """A request that would succeed with another caller."""
    body = TOKEN_BODY if route.function in TOKEN_PATH else VALID.get(str(route))
    return HttpRequest(route.method, route.example, body, headers)
