"""The API servers of these tests: the one in this process, and a real one if the environment names it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import DEPLOYMENTS, NAMESPACES, Resource
from llmariner.settings import ClusterSettings

from .caller import Caller
from .schemas import Schemas, folder
from .server import ApiServer

REAL = "LLMARINER_TEST_KUBECONFIG"
SERVICE_ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder of upstream's CRDs."""
    return folder()


@pytest.fixture(scope="session")
def schemas(crds: Path) -> Schemas:
    """One for the session, since it reads each schema once."""
    return Schemas(crds)


@pytest.fixture(scope="session")
def shared_server(schemas: Schemas, crds: Path) -> Iterator[ApiServer]:
    """A server that many tests use, each in its namespace."""
    with ApiServer(schemas, crds) as running:
        yield running


@pytest.fixture
def server(schemas: Schemas, crds: Path) -> Iterator[ApiServer]:
    """A server of the test's own."""
    with ApiServer(schemas, crds) as running:
        yield running


@pytest.fixture(params=["fake", "real"] if REAL in os.environ else ["fake"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Caller:
    """Both, one after the other."""
    if request.param == "real":
        return Caller(Path(os.environ[REAL]), real=True)
    return Caller(request.getfixturevalue("shared_server").kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture
def namespace(api: Caller) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    api.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.done("DELETE", NAMESPACES.path(None, name))


@pytest.fixture
def cluster(api: Caller) -> Iterator[Cluster]:
    """Our port to it."""
    made = Cluster(ClusterSettings(api.kubeconfig))
    yield made
    made.close()


@pytest.fixture
def objects_unchanged(api: Caller) -> None:
    """For objects that no controller may modify in between: an API server without their controllers."""
    if api.real and api.request("GET", DEPLOYMENTS.path("kserve", "kserve-controller-manager"))[0] == 200:
        pytest.skip("the controllers of this cluster write the same objects")


@pytest.fixture
def kubernetes_controllers(api: Caller) -> None:
    """For what Kubernetes' own controllers do: an API server that runs alone has none, as its accounts show."""
    if api.real and api.request("GET", SERVICE_ACCOUNTS.path("kube-system", "default"))[0] == 404:
        pytest.skip("this API server runs without the controllers of Kubernetes")
