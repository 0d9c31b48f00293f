"""A person opens a notebook of a cluster in a browser, through the Gateway and Knative, at a host of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ...lab.images import present
from ...lab.kubectl import apply, get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import NOTEBOOK_DOMAIN, NOTEBOOK_IMAGE, NOTEBOOK_VOLUMES

# The type checker sees each folder of tests by itself.
_chromium: Any = import_module("tests.identity.chromium")
_notebooks: Any = import_module("tests.standalone.test_notebooks")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PATH = "/v1/workspaces/notebooks"
FUNCTION = "services-notebooks"
_REQUEST_SECONDS = 20
# The cell's output comes when Knative has ended the websocket on which it was asked for.
_CELL = f"import time; time.sleep({2 * _REQUEST_SECONDS}); print(6 * 7)"


@pytest.fixture
def caller(installed: Installed) -> Any:
    """The administrator, by the Gateway's address."""
    if NOTEBOOK_IMAGE not in present(installed.lab):
        pytest.skip(
            "the image of notebooks is not in the test cluster; `python -m tests.cluster.lab load` brings it there"
        )
    made = _notebooks.Caller.__new__(_notebooks.Caller)
    made.base = f"http://{installed.address}"
    made.headers = {"authorization": f"Bearer {installed.api_key}"}
    return made


@pytest.fixture
def volume(installed: Installed, tmp_path: Path) -> Iterator[Path]:
    """The folder of a volume for one notebook."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "4Gi"},
        "storageClassName": NOTEBOOK_VOLUMES,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
    }
    name = "test-notebook-browser"
    apply(installed.lab, [{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}])
    yield folder
    kubectl(installed.lab, "delete", "pv", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def short_requests(installed: Installed) -> Iterator[None]:
    """Knative ends requests to notebooks soon, not after an hour."""
    names = ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
    before = get(installed.lab, "ksvc", FUNCTION, "-n", "llmariner")["spec"]["template"]["spec"]
    _change(installed, dict.fromkeys(names, _REQUEST_SECONDS))
    yield
    _change(installed, {name: before[name] for name in names})


@pytest.fixture
def notebook(caller: Any, volume: Path) -> Iterator[dict[str, Any]]:
    """One that runs."""
    amounts = {"cpu_milicore": 500, "memory_megabytes": 768, "storage_megabytes": 64}
    resources = {name: {"limits": amount} for name, amount in amounts.items()}
    made = caller.json("POST", PATH, {"name": "browser", "resources": resources})
    yield dict(caller.wait(made["id"], "running"))
    caller.json("DELETE", f"{PATH}/{made['id']}")


@pytest.mark.usefixtures("short_requests")
def test_a_browser_runs_a_cell_that_outlasts_its_websocket_and_downloads_a_file(
    installed: Installed, caller: Any, notebook: dict[str, Any], volume: Path, tmp_path: Path
) -> None:
    base, one = notebook["path"], f"{PATH}/{notebook['id']}"
    # A program, with a key and a websocket of its own.
    assert caller.run_cell(base, "open('made.txt', 'w').write('made'); print('ran')").strip() == "ran"
    url = caller.json("POST", f"{one}/actions:open")["url"]
    host = f"{notebook['id']}.{NOTEBOOK_DOMAIN}"
    assert url.startswith(f"http://{host}{base}lab?link=")
    _refuse_forged_hosts(installed.address, url.removeprefix(f"http://{host}"), host)
    with _chromium.Chromium(tmp_path, {f"*.{NOTEBOOK_DOMAIN}": installed.address}) as browser:
        _notebooks.open_lab(caller, base, browser, url, _CELL)
        _notebooks.show(browser, "42", every=300)
        _notebooks.download(browser, f"http://{host}{base}", tmp_path)
    assert (tmp_path / "made.txt").read_text() == (volume / "made.txt").read_text() == "made"


def _refuse_forged_hosts(address: str, target: str, own: str) -> None:
    """A client's word for the host counts nowhere: neither at another notebook's host, nor at the API's."""
    forged = {"x-forwarded-host": own, "k-original-host": own, "forwarded": f"host={own}"}
    for host in (f"nb-other.{NOTEBOOK_DOMAIN}", address):
        status, body = _get(address, target, {"host": host, **forged})
        assert (status, json.loads(body)["error"]["code"]) == (403, "notebook_host_required")
    # Nothing but notebooks is at their hosts.
    assert _get(address, "/v1/models", {"host": own})[0] == 404


def _get(address: str, target: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(address, 80, timeout=60)) as connection:
        connection.request("GET", target, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()


def _change(installed: Installed, fields: Mapping[str, int]) -> None:
    """Change the template of the function, and wait for its new revision."""
    patch = json.dumps({"spec": {"template": {"spec": dict(fields)}}})
    kubectl(installed.lab, "patch", "ksvc", FUNCTION, "-n", "llmariner", "--type=merge", "-p", patch)

    def not_ready() -> str | None:
        service = get(installed.lab, "ksvc", FUNCTION, "-n", "llmariner")
        status = service["status"]
        current = status["observedGeneration"] == service["metadata"]["generation"]
        ready = all(each["status"] == "True" for each in status["conditions"])
        return None if current and ready else str(status["conditions"])

    until("the function with other limits", not_ready, seconds=180)
