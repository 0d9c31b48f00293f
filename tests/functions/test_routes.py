"""The routes of func.yaml, of the functions and of docs/api.md agree."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .conftest import Ask
from .declared_routes import (
    FUNCTIONS,
    ROUTES,
    TOKEN_PATH,
    UNAUTHENTICATED,
    WITH_TOKENS_OF_THEIR_OWN,
    DeclaredRoute,
    without_parameter_names,
)
from .http_calls import HttpRequest
from .installation import Installation
from .processes import CHECKOUT

Row = tuple[str, str, str, str]
PROBES = {("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/metrics")}


def documented() -> list[Row]:
    """Method, path, scope, function of each row of the table."""
    text = (CHECKOUT / "docs/api.md").read_text()
    rows = re.findall(r"^\| ([A-Z]+) \| `([^`]+)` \| ([^|]+) \| `(\w+)`", text, re.MULTILINE)
    return [(method, path, scope.strip().strip("`"), function) for method, path, scope, function in rows]


def built(name: str, installation: Installation) -> list[tuple[str, str, str | None]]:
    """Method, path and scope of each route of a function, without the probes."""
    found = []
    for route in installation.application(name).prepare().application.routes:
        scopes = [getattr(dependency.call, "scope", None) for dependency in route.dependant.dependencies]
        found += [
            (method, without_parameter_names(route.path), next(iter(scopes), None)) for method in sorted(route.methods)
        ]
    return [route for route in found if route[:2] not in PROBES]


def declared(name: str) -> list[DeclaredRoute]:
    return [route for route in ROUTES if route.function == name and (route.method, route.path) not in PROBES]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in TOKEN_PATH])
def test_a_function_has_its_declared_routes(name: str, installation: Installation) -> None:
    found = sorted((method, path) for method, path, _ in built(name, installation))
    assert found == sorted((route.method, without_parameter_names(route.path)) for route in declared(name))


@pytest.mark.parametrize("name", sorted(TOKEN_PATH))
def test_a_token_path_function_has_its_route(name: str, ask: Ask) -> None:
    [route] = declared(name)
    assert route.path == f"/v1/{name.replace('chat_', 'chat/')}"
    assert ask(name, HttpRequest(route.method, route.path, {})).status == 401
    assert ask(name, HttpRequest("GET", route.path)).status == 405


def test_the_documentation_lists_every_route_once(installation: Installation) -> None:
    found = [(method, path, function) for method, path, _, function in documented()]
    assert sorted(found) == sorted((route.method, route.path, route.function) for route in ROUTES)


def test_the_documentation_has_the_required_scopes(installation: Installation) -> None:
    asked: dict[tuple[str, str], str | None] = {}
    for name in set(FUNCTIONS) - TOKEN_PATH:
        asked |= {(method, path): scope for method, path, scope in built(name, installation)}
    for method, path, scope, function in documented():
        if function in UNAUTHENTICATED | WITH_TOKENS_OF_THEIR_OWN:
            assert "api." not in scope
        elif function == "sessions" and asked[method, without_parameter_names(path)] is None:
            assert "api." not in scope  # routes of agents, replicas and functions
        elif function in TOKEN_PATH:
            assert scope == installation.application(function).prepare().application.route.scope
        else:
            assert scope == asked[method, without_parameter_names(path)], path


def test_every_folder_is_named_after_its_url() -> None:
    for name in FUNCTIONS:
        words = "/" + name.replace("_", "[_/-]")
        paths = [re.sub(r"/\{[^}]+\}(?=/)", "", route.path) for route in declared(name)]
        # LLMariner's path of a notebook begins with its cluster's.
        paths = [path.removeprefix("/v1/sessions") if path.startswith("/v1/sessions/v1/") else path for path in paths]
        assert all(re.match(rf"(/v1|/internal)?{words}", path) for path in paths), name


def test_functions_share_no_route() -> None:
    owners: dict[tuple[str, str], str] = {}
    for route in ROUTES:
        assert owners.setdefault((route.method, without_parameter_names(route.path)), route.function) == route.function


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_every_function_responds_to_probes_without_a_key(name: str, path: str, ask: Ask) -> None:
    answer = ask(name, HttpRequest("GET", path))
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize("name", sorted(TOKEN_PATH))
def test_the_token_path_exposes_metrics(name: str, ask: Ask) -> None:
    answer = ask(name, HttpRequest("GET", "/metrics"))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"# TYPE llmariner_requests_total counter\n" in answer.body


def test_health_names_the_degraded_component(ask: Ask) -> None:
    parts: dict[str, Any] = ask("health", HttpRequest("GET", "/health")).json
    well = {"status": "ok", "reason": None}
    assert parts == {"status": "ok", "parts": {"database": well, "serving": well}}
