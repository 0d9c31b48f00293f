"""Browsers use a notebook at a host of its own alone: pages of others' notebooks run at every other one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmariner.notebooks.hosts import NotebookHosts

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


@pytest.fixture
def cluster(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions are behind the Gateway of a cluster, which replaces the host."""
    hosts = NotebookHosts("https://*.nb.example.org", rewritten=True)
    monkeypatch.setattr(installation.context.notebooks, "hosts", hosts)


INSIDE = "services-notebooks.llmariner.svc.cluster.local"


@pytest.mark.usefixtures("cluster")
def test_behind_a_gateway_a_cookie_is_of_one_host_by_its_name(ask: Ask, admin: dict[str, str], own: str) -> None:
    asked = HttpRequest("POST", f"/v1/workspaces/notebooks/{own}/actions:open", {}, admin)
    url = str(ask("workspaces_notebooks", asked).json["url"])
    origin, _, rest = url.partition("/v1/")
    assert origin == f"https://{own}.nb.example.org"
    path, query = f"/v1/{rest.partition('?')[0]}", rest.partition("?")[2]
    there = {"host": INSIDE, "x-forwarded-host": f"{own}.nb.example.org"}
    for elsewhere in ({"host": f"{own}.nb.example.org"}, {**there, "x-forwarded-host": "api.example.org"}):
        refused = ask("services_notebooks", HttpRequest("GET", path, headers=elsewhere, query=query))
        assert_error(refused, 403, "notebook_host_required")
    opened = ask("services_notebooks", HttpRequest("GET", path, headers=there, query=query))
    field = opened.headers["set-cookie"]
    assert field.startswith("__Host-llmariner-notebook=")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(field.split("; "))
    assert "Domain" not in field
    cookie = field.partition(";")[0]
    waits = ask("services_notebooks", HttpRequest("GET", path, headers={**there, "cookie": cookie}))
    assert_error(waits, 409, "notebook_not_running")
    # Pages of other notebooks may set a cookie for all hosts of the domain, but none with that beginning of its name.
    tossed = {**there, "cookie": cookie.removeprefix("__Host-")}
    assert_error(ask("services_notebooks", HttpRequest("GET", path, headers=tossed)), 401, "invalid_api_key")


FROM_OTHERS = [
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "https://nb-other.nb.example.org"},
    {"origin": "null"},
]
FROM_ITSELF = [
    {},
    {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"origin": "https://{id}.nb.example.org", "sec-fetch-site": "same-origin"},
]


@pytest.mark.usefixtures("cluster")
def test_pages_of_another_notebook_send_nothing_with_a_persons_cookie(
    ask: Ask, admin: dict[str, str], own: str, installation: Installation
) -> None:
    path, query = link(ask, admin, own)
    cookie = installation.context.notebooks.access.redeem_link(own, query.partition("=")[2])
    there = {"x-forwarded-host": f"{own}.nb.example.org", "cookie": f"__Host-llmariner-notebook={cookie}"}
    for said in FROM_OTHERS:
        refused = ask("services_notebooks", HttpRequest("GET", path, headers={**there, **said}))
        assert_error(refused, 403, "wrong_origin")
    posted = HttpRequest("POST", path, b"", {**there, **FROM_ITSELF[3]})
    assert_error(ask("services_notebooks", posted), 403, "wrong_origin")
    for said in FROM_ITSELF:
        headers = {**there, **{name: value.format(id=own) for name, value in said.items()}}
        waits = ask("services_notebooks", HttpRequest("GET", path, headers=headers))
        assert_error(waits, 409, "notebook_not_running")


def test_a_cluster_without_hosts_for_notebooks_names_the_setting(
    ask: Ask, admin: dict[str, str], own: str, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.context.notebooks, "hosts", NotebookHosts(rewritten=True))
    opened = HttpRequest("POST", f"/v1/workspaces/notebooks/{own}/actions:open", {}, admin)
    refused = ask("workspaces_notebooks", opened)
    assert_error(refused, 503, "no_notebook_hosts")
    assert "LLMARINER_NOTEBOOK_URL" in refused.json["error"]["message"]
