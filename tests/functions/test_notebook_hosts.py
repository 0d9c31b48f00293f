"""Browsers use a notebook at a host of its own alone: pages of others' notebooks run at every other one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Ask
from .http_calls import HttpRequest, assert_error
from .installation import Installation


@pytest.fixture(scope="module")
def own(ask: Ask, admin: dict[str, str]) -> Iterator[str]:
    """The id of a notebook that waits, of the caller of `admin`."""
    made = ask("workspaces_notebooks", HttpRequest("POST", "/v1/workspaces/notebooks", {"name": "hosts"}, admin))
    yield str(made.json["id"])
    # Other tests ask for the notebooks of this installation in processes that don't run them, and say so.
    ask("workspaces_notebooks", HttpRequest("DELETE", f"/v1/workspaces/notebooks/{made.json['id']}", None, admin))


def link(ask: Ask, admin: dict[str, str], notebook_id: str) -> tuple[str, str]:
    """The path and the query of a link that opens it."""
    opened = HttpRequest("POST", f"/v1/workspaces/notebooks/{notebook_id}/actions:open", {}, admin)
    path, _, query = str(ask("workspaces_notebooks", opened).json["path"]).partition("?")
    return path, query


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "platform.example", "nb-other.localhost", "{id}x.localhost", ""]
)
def test_a_browser_opens_its_own_notebook_at_no_other_host(
    ask: Ask, admin: dict[str, str], installation: Installation, own: str, host: str
) -> None:
    path, query = link(ask, admin, own)
    there = {"host": host.format(id=own)}
    refused = ask("services_notebooks", HttpRequest("GET", path, headers=there, query=query))
    assert_error(refused, 403, "notebook_host_required")
    # The link was not used up; and the cookie of the right host works at no other.
    cookie = installation.context.notebooks.access.redeem_link(own, query.partition("=")[2])
    asked = HttpRequest("GET", path, headers={**there, "cookie": f"llmariner-notebook={cookie}"})
    assert_error(ask("services_notebooks", asked), 403, "notebook_host_required")


@pytest.mark.parametrize("host", ["{id}.localhost:8080", "{id}.platform.example"])
def test_a_browser_opens_a_notebook_at_its_own_host(ask: Ask, admin: dict[str, str], own: str, host: str) -> None:
    path, query = link(ask, admin, own)
    there = {"host": host.format(id=own)}
    opened = ask("services_notebooks", HttpRequest("GET", path, headers=there, query=query))
    assert (opened.status, opened.headers["location"]) == (303, path)
    cookie = opened.headers["set-cookie"].partition(";")[0]
    waits = ask("services_notebooks", HttpRequest("GET", path, headers={**there, "cookie": cookie}))
    assert_error(waits, 409, "notebook_not_running")
