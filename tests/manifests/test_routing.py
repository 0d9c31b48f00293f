"""Every declared request reaches its function, whatever the precedence of expressions and prefixes in a Gateway."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.manifests.declarations import DeclarationError, read_declarations
from llmariner.manifests.path_matches import path_matches
from llmariner.manifests.routes import http_route

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

Declare = Callable[..., None]
CHECKOUT = Path(__file__).parents[2]

# Exact comes first by the specification; how an implementation ranks the other two is its own affair.
RANKINGS = {
    "prefixes first": ("Exact", "PathPrefix", "RegularExpression"),
    "expressions first": ("Exact", "RegularExpression", "PathPrefix"),
}


def http_routes(checkout: Path, fallback: str | None = None) -> list[dict[str, Any]]:
    public = [each for each in read_declarations(checkout)[0] if each.public]
    ways = path_matches(public, fallback)
    return [http_route(each, ways[each.name]) for each in public]


def reached(routes: Iterable[dict[str, Any]], ranking: Iterable[str], method: str, path: str) -> str | None:
    """The function that a Gateway picks: best kind of match, then the longest, then one that names the method."""
    order, best = list(ranking), None
    for route in routes:
        for rule in route["spec"]["rules"]:
            for match in rule["matches"]:
                kind, value = match["path"]["type"], match["path"]["value"]
                if matched(kind, value, path) and match.get("method", method) == method:
                    rank = (-order.index(kind), len(value), "method" in match)
                    best = max(best or (rank, route["metadata"]["name"]), (rank, route["metadata"]["name"]))
    return best[1] if best else None


def matched(kind: str, value: str, path: str) -> bool:
    if kind == "Exact":
        return path == value
    if kind == "RegularExpression":
        return re.fullmatch(value, path) is not None
    return f"{path}/".startswith(f"{value.rstrip('/')}/")


def test_the_gateway_has_no_route_by_which_functions_call_each_other() -> None:
    values = [
        match["path"]["value"]
        for route in http_routes(CHECKOUT)
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    ]
    assert values
    assert not [each for each in values if "internal" in each]


def example(path: str) -> list[str]:
    """Paths that a declared path stands for."""
    one = re.sub(r"\{\w+(:path)?\}", "x1", path)
    many = re.sub(r"\{\w+:path\}", "org/x1.v2", path)
    return [one, many]


def misrouted(checkout: Path, ranking: Iterable[str]) -> list[tuple[str, str, str | None]]:
    routes = http_routes(checkout, "health")
    return [
        (route.method, path, got)
        for function in read_declarations(checkout)[0]
        if function.public
        for route in function.public_routes
        for path in example(route.path)
        if (got := reached(routes, ranking, route.method, path)) != function.name
    ]


@pytest.fixture
def platform(function: Declare) -> None:
    """Functions that share prefixes in every way that the platform's API does."""
    function("chat_completions", "POST /v1/chat/completions")
    function("models", "GET /v1/models", "GET /v1/models/{id:path}", "DELETE /v1/models/{id:path}")
    function("models_activate", "POST /v1/models/{id:path}:activate", "POST /v1/models/{id:path}:deactivate")
    function("organizations", "GET /v1/organizations", "POST /v1/organizations/{organization_id}")
    function(
        "projects",
        "GET /v1/organizations/{organization_id}/projects",
        "DELETE /v1/organizations/{organization_id}/projects/{project_id}",
    )
    function("api_keys", "POST /v1/organizations/{organization_id}/projects/{project_id}/api_keys")
    function("files", "GET /v1/files", "GET /v1/files/{file_id}", "GET /v1/files/{file_id}/content")
    function("files_upload", "POST /v1/files")
    function("batches", "GET /v1/batches/{batch_id}")
    function("batch_results", "GET /v1/batches/{batch_id}/results")
    function("health", "GET /health")
    function("internal_gateway", "POST /internal/key", visibility="cluster-local")


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_declared_request_reaches_its_function(ranking: str, checkout: Path) -> None:
    assert misrouted(checkout, RANKINGS[ranking]) == []


@pytest.mark.parametrize("ranking", RANKINGS)
def test_every_declared_request_of_this_checkout_reaches_its_function(ranking: str) -> None:
    assert misrouted(CHECKOUT, RANKINGS[ranking]) == []


@pytest.mark.usefixtures("platform")
def test_http_routes_are_admitted(checkout: Path, schemas: Schemas) -> None:
    for route in http_routes(checkout):
        assert schemas.faults(route) == []


@pytest.mark.usefixtures("platform")
def test_a_cluster_local_function_has_no_route(checkout: Path) -> None:
    assert "internal-gateway" not in {route["metadata"]["name"] for route in http_routes(checkout)}
    assert reached(http_routes(checkout), RANKINGS["prefixes first"], "POST", "/internal/key") is None


@pytest.mark.usefixtures("platform")
def test_a_function_that_owns_a_path_responds_to_wrong_methods_and_ids(
    checkout: Path,
) -> None:
    routes = http_routes(checkout)
    for ranking in RANKINGS.values():
        assert reached(routes, ranking, "GET", "/v1/chat/completions") == "chat-completions"
        assert reached(routes, ranking, "PATCH", "/v1/files/x1/unheard-of") == "files"
        assert reached(routes, ranking, "PATCH", "/v1/batches/x1/results") == "batch-results"


@pytest.mark.usefixtures("platform")
def test_two_methods_of_one_path_may_belong_to_two_functions(checkout: Path) -> None:
    routes = http_routes(checkout)
    for ranking in RANKINGS.values():
        assert reached(routes, ranking, "GET", "/v1/files") == "files"
        assert reached(routes, ranking, "POST", "/v1/files") == "files-upload"


def test_a_function_that_owns_a_prefix_needs_no_expression(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models/{id:path}", "POST /v1/models/{id:path}:activate")
    (route,) = http_routes(checkout)
    assert route["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1/models"}}]


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("request_line", ["GET /", "GET /v2/models", "POST /v1/chat", "PUT /internal/key"])
def test_undeclared_requests_reach_the_fallback(request_line: str, checkout: Path) -> None:
    method, path = request_line.split()
    for place in (checkout, CHECKOUT):
        for ranking in RANKINGS.values():
            assert reached(http_routes(place, "health"), ranking, method, path) == "health"


def test_two_functions_cannot_declare_the_same_requests(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models/{id}")
    function("catalog", "GET /v1/models/{name}")
    with pytest.raises(DeclarationError, match="cannot be distinguished"):
        http_routes(checkout)


def test_a_rule_has_at_most_the_matches_that_the_gateway_api_allows(checkout: Path, function: Declare) -> None:
    function("models", *[f"GET /v1/models/{number}" for number in range(64)])
    assert len(http_routes(checkout)[0]["spec"]["rules"][0]["matches"]) == 64
    function("models", *[f"GET /v1/models/{number}" for number in range(65)])
    with pytest.raises(DeclarationError, match="65 paths"):
        http_routes(checkout)


@pytest.mark.usefixtures("platform")
def test_a_request_is_sent_to_the_local_gateway_with_its_functions_host(checkout: Path) -> None:
    route = next(each for each in http_routes(checkout) if each["metadata"]["name"] == "chat-completions")
    (rule,) = route["spec"]["rules"]
    rewrite, header = rule["filters"]
    assert rewrite["urlRewrite"] == {"hostname": "chat-completions.llmariner.svc.cluster.local"}
    assert header["requestHeaderModifier"]["set"] == [
        {"name": "X-Forwarded-Host", "value": route["spec"]["hostnames"][0]}
    ]
    assert rule["backendRefs"] == [{"name": "kourier-internal", "namespace": "kourier-system", "port": 80}]


@pytest.mark.usefixtures("platform")
def test_the_gateway_has_no_stream_timeout(checkout: Path) -> None:
    for route in http_routes(checkout):
        assert route["spec"]["rules"][0]["timeouts"] == {"request": "0s"}
