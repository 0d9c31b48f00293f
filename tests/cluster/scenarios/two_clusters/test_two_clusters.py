"""A cluster joins a control plane that is reached over TLS, and people use it with plain kubectl through the agent alone.

The control plane runs on this machine, the worker is the test cluster in a network namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ...lab.images import present
from ...lab.places import Lab
from ...lab.processes import running
from ...lab.wait import until
from .worker import CERTIFICATE, Person, Worker

# The type checker sees each folder of tests by itself.
_functions: Any = import_module("tests.cli.served_functions")
_tls_proxy: Any = import_module("tests.tunnel.tls_proxy")

_WEBSOCKETS = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true"}
_SPDY = dict.fromkeys(_WEBSOCKETS, "false")


@pytest.fixture
def lab() -> Lab:
    """The worker: the second test cluster if it is up, else the first."""
    found = next((lab for lab in (Lab(1), Lab(0)) if "kubelet" in running(lab)), None)
    if found is None:
        pytest.skip("no test cluster is up; `make cluster` starts it")
    if not any("llmariner/agent" in each for each in present(found)):
        pytest.skip("the agent's image is not in the test cluster; `python -m tests.cluster.lab load` brings it there")
    return found


@pytest.fixture
def owner(lab: Lab, tmp_path: Path) -> Iterator[Person]:
    """The owner of an organization, at a control plane that the worker's pods reach by this machine's address."""
    with (
        _functions.ServedFunctions(tmp_path) as platform,
        _tls_proxy.terminated_tls_in_thread(platform.port, tmp_path, lab.host_address) as url,
    ):
        yield Person(tmp_path, url, str(platform.key))


@pytest.fixture
def worker(lab: Lab) -> Iterator[Worker]:
    made = Worker(lab, "gpu-west", f"team-{uuid.uuid4().hex[:6]}")
    yield made
    made.clean()


def test_a_cluster_joins_and_plain_kubectl_works_through_its_agent(owner: Person, worker: Worker) -> None:
    worker.join(owner)
    worker.make_pod()
    _get_rights(owner, worker)
    _read(owner, worker)
    for protocol in (_WEBSOCKETS, _SPDY):
        _exec_and_copy(owner, protocol)
        _forward_a_port(owner, protocol)
    _survive_the_agent(owner, worker)
    audit = owner.done("llma", "admin", "audit", "list", "--type", "cluster.accessed", "-o", "json")
    assert "exit 7" in audit


def _get_rights(owner: Person, worker: Worker) -> None:
    """A kubeconfig; then the steps without which kubectl says what is missing."""
    llma = ("llma", "admin", "clusters")
    authority = ("--certificate-authority", str(owner.folder / CERTIFICATE))
    (owner.folder / "kubeconfig").write_text(
        owner.done(*llma, "kubeconfig", worker.name, "-n", worker.namespace, *authority)
    )
    projects = ("llma", "admin", "projects")
    assert "Your project has no namespace" in owner.run("kubectl", "get", "pods").stderr
    owner.done(*projects, "update", "Default Project", "--kubernetes-namespace", worker.namespace)
    refused = owner.run("kubectl", "get", "pods").stderr
    command = next(part for part in refused.split("`") if part.startswith("llma admin clusters permissions"))
    subprocess.run(
        ["bash", "-ceu", command.replace("kubectl", f"kubectl --kubeconfig={worker.lab.kubeconfig}")],
        env=owner.environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )


def _read(owner: Person, worker: Worker) -> None:
    assert owner.done("kubectl", "get", "pods", "--no-headers").split()[:3] == ["web", "1/1", "Running"]
    assert "line" in owner.done("kubectl", "logs", "web", "--tail=1")
    for words, message in (
        (("delete", "pod", "web"), "does not allow this method"),
        (("get", "secrets"), "You may not list secrets"),
        (("get", "pods", "-n", "kube-system"), "no namespace 'kube-system'"),
        (("get", "nodes"), "is not inside a namespace"),
    ):
        assert message in owner.run("kubectl", *words).stderr
    with _started(owner, "kubectl", "logs", "-f", "web", "--tail=1") as logs:
        assert [logs.stdout.readline() for _ in range(3)] == ["line\n"] * 3  # type: ignore[union-attr]
        logs.kill()


def _exec_and_copy(owner: Person, protocol: dict[str, str]) -> None:
    failed = owner.run(
        "kubectl", "exec", "web", "--", "busybox", "sh", "-c", "echo out; echo no >&2; exit 7", **protocol
    )
    assert (failed.returncode, failed.stdout) == (7, "out\n")
    assert failed.stderr.startswith("no\n")
    piped = ("kubectl", "exec", "-i", "web", "--", "busybox", "wc", "-c")
    assert owner.run(*piped, text="x" * 3_000_000, **protocol).stdout.strip() == "3000000"
    terminal = "kubectl exec -it web -- busybox sh -c 'test -t 0 && echo terminal'"
    assert "terminal" in owner.done("script", "-qec", terminal, "/dev/null", **protocol)
    here, there = owner.folder / "sent", owner.folder / "fetched"
    here.write_bytes(os.urandom(2_000_000))
    owner.done("kubectl", "cp", str(here), "web:/tmp/copy", **protocol)
    owner.done("kubectl", "cp", "web:/tmp/copy", str(there), **protocol)
    assert there.read_bytes() == here.read_bytes()
    with _started(owner, "kubectl", "attach", "web", **protocol) as attached:
        assert "line\n" in [attached.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
        attached.kill()


def _forward_a_port(owner: Person, protocol: dict[str, str]) -> None:
    with _started(owner, "kubectl", "port-forward", "pod/web", ":8080", **protocol) as forwarded:
        said = forwarded.stdout.readline()  # type: ignore[union-attr]
        address = said.removeprefix("Forwarding from ").split(" ->")[0]
        for _ in range(3):
            with urllib.request.urlopen(f"http://{address}/", timeout=20) as response:
                assert response.read() == b"served\n"
        forwarded.kill()


def _survive_the_agent(owner: Person, worker: Worker) -> None:
    """A killed agent ends its streams with an error; a client that tries again finds the cluster by the next agent."""
    endless = ("kubectl", "exec", "web", "--", "busybox", "sh", "-c", "while echo x; do sleep 1; done")
    with _started(owner, *endless) as session:
        assert session.stdout.readline() == "x\n"  # type: ignore[union-attr]
        worker.kill_agent()
        assert session.wait(60) != 0
    began = time.monotonic()
    until("the next agent", lambda: owner.run("kubectl", "get", "pods").stderr or None, seconds=120, pause=1)
    assert time.monotonic() - began < 120


def _started(owner: Person, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=owner.environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
