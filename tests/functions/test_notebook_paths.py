"""LLMariner's paths of notebooks lead to the platform's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Ask
from .http_calls import HttpRequest, assert_error


@pytest.fixture(scope="module")
def own(ask: Ask, admin: dict[str, str]) -> Iterator[str]:
    """The id of a notebook of the caller of `admin`."""
    made = ask("workspaces_notebooks", HttpRequest("POST", "/v1/workspaces/notebooks", {"name": "paths"}, admin))
    yield str(made.json["id"])
    # Other tests ask for the notebooks of this installation in processes that don't run them, and say so.
    ask("workspaces_notebooks", HttpRequest("DELETE", f"/v1/workspaces/notebooks/{made.json['id']}", None, admin))


@pytest.mark.parametrize(
    ("below", "query", "target"),
    [
        ("default/lab", "a=1&b=%2F", "lab?a=1&b=%2F"),
        ("default", "", ""),
        ("default/", "", ""),
        ("team-a/8000/x/y", "", "proxy/8000/x/y"),
        ("team-a/8000", "", "proxy/8000/"),
        ("team-a/80001x", "", "80001x"),
        ("team-a//evil.example/x", "", "/evil.example/x"),
    ],
)
def test_a_path_of_a_cluster_and_a_namespace_is_redirected(
    ask: Ask, admin: dict[str, str], own: str, below: str, query: str, target: str
) -> None:
    for method in ("GET", "POST"):
        path = f"/v1/sessions/cluster-local/v1/services/notebooks/{own}/{below}"
        sent = ask("services_notebooks", HttpRequest(method, path, headers=admin, query=query))
        assert (sent.status, sent.headers["location"]) == (307, f"/v1/services/notebooks/{own}/{target}")


def test_only_who_sees_the_notebook_is_redirected(ask: Ask, admin: dict[str, str], own: str) -> None:
    path = "/v1/sessions/cluster-local/v1/services/notebooks/{}/default/lab"
    assert_error(
        ask("services_notebooks", HttpRequest("GET", path.format("nb-unknown"), headers=admin)), 404, "not_found"
    )
    assert ask("services_notebooks", HttpRequest("GET", path.format(own))).status == 401
