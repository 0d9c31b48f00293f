"""A worker cluster that joined an installed platform at its Gateway over TLS, and a model that runs there alone."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE, NAMESPACE

from ...lab.images import present
from ...lab.kubectl import kubectl
from ...lab.places import Lab
from ...lab.processes import running
from ...platform import overlay
from ...platform.installed import Installed
from ..documents.stores import DocumentStores, NoGateway, platform_with_copies, running_stores
from ..functions import Functions
from ..platform_client import PlatformClient
from ..two_clusters.kubectl_sessions import get_rights
from ..two_clusters.worker import Person, Worker
from ..worker_cluster.control_plane import ENGINE, engines
from .placed_work import LONGEST_SECONDS, MODEL, PACKAGED, RECONNECT_SECONDS, SETTINGS
from .tls_gateway import TlsGateway, tls_gateway

_SUFFIX = uuid.uuid4().hex[:6]


@pytest.fixture(scope="package")
def worker_lab(installed: Installed) -> Lab:
    """The second test cluster if it is up and has no platform. Else the first: then it takes people's requests alone."""
    lab = Lab(1)
    is_free = "kubelet" in running(lab) and not kubectl(lab, "get", "namespace", NAMESPACE, "--ignore-not-found")
    return lab if is_free and ENGINE in present(lab) else installed.lab


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the owner."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="package")
def stores(
    installed: Installed, worker_lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DocumentStores | None]:
    """An object store of the platform, which jobs on a second cluster need for files; None: this machine can't run it."""
    with contextlib.ExitStack() as stack:
        try:
            if worker_lab == installed.lab:
                raise NoGateway
            made = stack.enter_context(running_stores(tmp_path_factory.mktemp("stores"), installed.lab.host_address))
        except NoGateway:
            yield None
            return
        stack.enter_context(platform_with_copies(installed, made, **SETTINGS))
        yield made


@pytest.fixture(scope="package")
def gateway(installed: Installed, stores: DocumentStores | None, worker_lab: Lab, folder: Path) -> Iterator[TlsGateway]:
    with two_replicas(installed), tls_gateway(installed, folder, worker_lab) as made:
        yield made


@pytest.fixture(scope="package")
def owner(installed: Installed, gateway: TlsGateway, folder: Path) -> Person:
    return Person(folder, gateway.here, installed.api_key)


@contextlib.contextmanager
def two_replicas(installed: Installed) -> Iterator[None]:
    """`sessions` with two replicas that always run, and a short longest request."""
    spec = "/spec/template/spec"
    names = ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
    variable = {"name": "LLMARINER_TUNNEL_RECONNECT_SECONDS", "value": str(RECONNECT_SECONDS)}
    scale = "/spec/template/metadata/annotations/autoscaling.knative.dev~1min-scale"
    patch: list[dict[str, Any]] = [
        *({"op": "replace", "path": f"{spec}/{name}", "value": LONGEST_SECONDS} for name in names),
        {"op": "add", "path": f"{spec}/containers/0/env/-", "value": variable},
        {"op": "replace", "path": scale, "value": "2"},
    ]
    with Functions(installed).changed("sessions", patch):
        yield


@pytest.fixture(scope="package")
def worker(installed: Installed, owner: Person, gateway: TlsGateway, worker_lab: Lab) -> Iterator[Worker]:
    """In which the owner may use kubectl."""
    made, has_work = Worker(worker_lab, f"west-{_SUFFIX}", f"team-{_SUFFIX}"), worker_lab != installed.lab
    try:
        made.join(owner, work=has_work, control_plane=gateway.there)
        made.make_pod()
        get_rights(owner, made)
        yield made
    finally:
        owner.run("llma", "admin", "projects", "update", "Default Project", "--kubernetes-namespace", "")
        made.clean()
        if has_work:
            kubectl(worker_lab, "delete", "namespace", JOBS_NAMESPACE, "--ignore-not-found", "--timeout=100s")
        owner.run("llma", "admin", "clusters", "unregister", made.name)


@pytest.fixture(scope="package")
def cluster_id(installed: Installed, worker: Worker) -> str:
    """For work of the platform, which needs a second cluster."""
    if worker.lab == installed.lab:
        pytest.skip("the second test cluster is not up, has a platform, or lacks the engines' image")
    _, listed = installed.call("GET", "/clusters?limit=100")
    return next(str(each["id"]) for each in listed["data"] if each["name"] == worker.name)


@pytest.fixture(scope="package")
def client(installed: Installed, worker: Worker, cluster_id: str) -> Iterator[PlatformClient]:
    """With a model that may run on the worker cluster alone, and what its engines need there."""
    with engines(worker.lab), contextlib.closing(PlatformClient(installed)) as client:
        try:
            installed.register(MODEL, overlay.weights(PACKAGED), cluster_ids=[cluster_id])
            yield client
        finally:
            installed.call("DELETE", f"/models/{MODEL}")
