"""A notebook of a cluster is a pod with a volume, opened through the platform's proxy: cells run, files outlive the pod.

The platform's functions run in the test's process, which resolves names of Services as the cluster's name server does.
"""

from __future__ import annotations

import http.server
import socket
import threading
import uuid
import zipfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from llmariner import __version__

from ...lab.images import present
from ...lab.kubectl import apply, get, kubectl
from ...lab.places import Lab
from ...lab.processes import running
from ...lab.wait import until

# The type checker sees each folder of tests by itself.
_functions: Any = import_module("tests.cli.served_functions")
_notebooks: Any = import_module("tests.standalone.test_notebooks")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

IMAGE = f"dev.local/llmariner/notebook:{__version__}"
# JupyterLab looks once a minute whether it is idle.
IDLE_SECONDS = 20
VERSION = "import importlib.metadata as m, sample_pack; print(sample_pack.VERSION, m.version('sample-pack'))"
PATH = "/v1/workspaces/notebooks"


@pytest.fixture
def lab() -> Lab:
    found = next((lab for lab in (Lab(1), Lab(0)) if "kubelet" in running(lab)), None)
    if found is None:
        pytest.skip("no test cluster is up; `make cluster` starts it")
    if IMAGE not in present(found):
        pytest.skip(
            "the image of notebooks is not in the test cluster; `python -m tests.cluster.lab load` brings it there"
        )
    return found


@pytest.fixture
def namespace(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A namespace, and a volume for the one claim in it."""
    name, folder = f"test-notebooks-{uuid.uuid4().hex[:6]}", tmp_path / "volume"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    volume = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "4Gi"},
        "storageClassName": name,
        "hostPath": {"path": str(folder), "type": "Directory"},
    }
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(
        lab,
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        ],
    )
    yield name
    kubectl(lab, "delete", "namespace", name, "--ignore-not-found", "--timeout=100s")
    kubectl(lab, "delete", "pv", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def names(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of Services are resolved."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        parts = str(host).split(".")
        if parts[2:] == ["svc"]:
            host = get(lab, "service", parts[0], "-n", parts[1])["spec"]["clusterIP"]
        return resolve(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def index(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A package index that pods reach, with two versions of one package."""
    files = tmp_path / "index" / "sample-pack"
    files.mkdir(parents=True)
    for version in ("1.0", "2.0"):
        described = f"sample_pack-{version}.dist-info"
        with zipfile.ZipFile(files / f"sample_pack-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("sample_pack.py", f"VERSION = '{version}'\n")
            wheel.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: sample-pack\nVersion: {version}\n")
            wheel.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{described}/RECORD", "")
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=str(files.parent))
    with http.server.ThreadingHTTPServer((lab.host_address, 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{lab.host_address}:{server.server_port}/"
        server.shutdown()


@pytest.mark.usefixtures("names")
def test_a_notebook_is_a_pod_behind_the_proxy_whose_files_outlive_it(
    lab: Lab, namespace: str, index: str, tmp_path: Path
) -> None:
    settings = {
        "LLMARINER_JOBS": "kubernetes",
        "LLMARINER_JOBS_NAMESPACE": namespace,
        "LLMARINER_KUBECONFIG": str(lab.kubeconfig),
        "LLMARINER_NOTEBOOK_IMAGES": f"jupyter-lab-base={IMAGE}",
        "LLMARINER_NOTEBOOK_STORAGE_CLASS": namespace,
        "LLMARINER_NOTEBOOK_IDLE_SECONDS": str(IDLE_SECONDS),
    }
    with _functions.ServedFunctions(tmp_path, **settings) as served:
        (tmp_path / "admin.key").write_text(served.key)
        caller = _notebooks.Caller({"LLMARINER_PORT": str(served.port), "LLMARINER_HOME": str(tmp_path)})
        amounts = {"cpu_milicore": 800, "memory_megabytes": 768, "storage_megabytes": 64}
        resources = {name: {"limits": amount} for name, amount in amounts.items()}
        envs = {"PIP_INDEX_URL": index, "PIP_TRUSTED_HOST": lab.host_address}
        made = caller.json("POST", PATH, {"name": "tried", "resources": resources, "envs": envs})
        one, base = f"{PATH}/{made['id']}", f"/v1/services/notebooks/{made['id']}/"
        _wait(served, caller, one, "running")
        assert caller.raw("GET", f"{base}lab", headers={})[0] == 401
        assert b"jupyter-config-data" in caller.raw("GET", f"{base}lab")[2]
        written = caller.run_cell(base, "open('kept.txt', 'w').write('kept'); import os; print(os.getuid(), 6 * 7)")
        assert written.split() == ["65532", "42"]
        _installed_at_once(caller, base, "1.0")

        (first,) = _ready(lab, namespace)
        kubectl(lab, "delete", "pod", "-n", namespace, first, "--wait=false")
        until("the next pod", lambda: None if _ready(lab, namespace) - {first} else "it is not ready", seconds=180)
        _wait(served, caller, one, "running")
        assert caller.run_cell(base, "print(open('kept.txt').read())") == "kept\n"
        assert caller.run_cell(base, VERSION).split() == ["1.0", "1.0"]
        _installed_at_once(caller, base, "2.0")

        # Nobody asks anything of it any more.
        _wait(served, caller, one, "stopped")
        until("its pods have ended", lambda: _running(lab, namespace), seconds=60)
        assert (tmp_path / "volume" / "kept.txt").read_text() == "kept"
        caller.json("POST", f"{one}/actions:start")
        _wait(served, caller, one, "running")
        assert caller.run_cell(base, VERSION).split() == ["2.0", "2.0"]

        caller.json("POST", f"{one}/actions:stop")
        _wait(served, caller, one, "stopped")
        until("its pods have ended", lambda: _running(lab, namespace), seconds=60)
        assert (tmp_path / "volume" / "kept.txt").read_text() == "kept"
        caller.json("DELETE", one)
        until("nothing is left", lambda: _left(served, lab, namespace), seconds=60)


def _installed_at_once(caller: Any, base: str, version: str) -> None:
    """A package is there in the cell that installs it."""
    printed = caller.run_cell(base, f"%pip install sample-pack=={version}\n{VERSION}")
    assert printed.split()[-2:] == [version, version], printed


def _wait(served: Any, caller: Any, one: str, status: str) -> None:
    """What the consumers of events do, until the notebook has a status."""

    def not_yet() -> str | None:
        served._context.notebooks.reconciler.reconcile_all(seconds=20)
        found = caller.json("GET", one)
        return None if found["status"] == status else f"{found['status']}: {found['status_reason']}"

    until(f"the notebook is {status}", not_yet, seconds=240, pause=1)


def _ready(lab: Lab, namespace: str) -> set[str]:
    """Names of the pods that are ready."""
    return {
        str(pod["metadata"]["name"])
        for pod in get(lab, "pods", "-n", namespace)["items"]
        for each in pod["status"].get("conditions", ())
        if each["type"] == "Ready" and each["status"] == "True"
    }


def _running(lab: Lab, namespace: str) -> str | None:
    pods = get(lab, "pods", "-n", namespace)["items"]
    return ", ".join(each["metadata"]["name"] for each in pods if each["status"]["phase"] == "Running") or None


def _left(served: Any, lab: Lab, namespace: str) -> str | None:
    served._context.notebooks.reconciler.reconcile_all(seconds=20)
    items = get(lab, "jobs,pods,secrets,services,persistentvolumeclaims", "-n", namespace)["items"]
    return ", ".join(f"{each['kind']} {each['metadata']['name']}" for each in items) or None
