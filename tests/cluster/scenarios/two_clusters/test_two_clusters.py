"""A cluster joins a control plane that is reached over TLS, and people use it with plain kubectl through the agent alone.

The control plane runs on this machine, the worker is the test cluster in a network namespace of its own.
"""

from __future__ import annotations

import time
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
from .kubectl_sessions import SPDY, WEBSOCKETS, exec_and_copy, forward_a_port, get_rights, read, started
from .worker import Person, Worker

# The type checker sees each folder of tests by itself.
_functions: Any = import_module("tests.cli.served_functions")
_tls_proxy: Any = import_module("tests.tunnel.tls_proxy")


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
    get_rights(owner, worker)
    read(owner, worker)
    for protocol in (WEBSOCKETS, SPDY):
        exec_and_copy(owner, protocol)
        forward_a_port(owner, protocol)
    _survive_the_agent(owner, worker)
    audit = owner.done("llma", "admin", "audit", "list", "--type", "cluster.accessed", "-o", "json")
    assert "exit 7" in audit


def _survive_the_agent(owner: Person, worker: Worker) -> None:
    """A killed agent ends its streams with an error; a client that tries again finds the cluster by the next agent."""
    endless = ("kubectl", "exec", "web", "--", "busybox", "sh", "-c", "while echo x; do sleep 1; done")
    with started(owner, *endless) as session:
        assert session.stdout.readline() == "x\n"  # type: ignore[union-attr]
        worker.kill_agent()
        assert session.wait(60) != 0
    began = time.monotonic()
    until("the next agent", lambda: owner.run("kubectl", "get", "pods").stderr or None, seconds=120, pause=1)
    assert time.monotonic() - began < 120
