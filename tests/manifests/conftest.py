"""Fixtures of the manifest tests: the upstream schemas, and small checkouts."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.installation.secret_objects import SecretObjects
from llmariner.manifests.tree import write_files
from llmariner.platform.kube import Cluster
from llmariner.settings import ClusterSettings

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_schemas = importlib.import_module("..kubernetes_api.schemas", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder of upstream's CRDs."""
    root: Path = _schemas.folder()
    return root


@pytest.fixture(scope="session")
def schemas(crds: Path) -> Schemas:
    """The validator over them; one for the session, since it reads each schema once."""
    validator: Schemas = _schemas.Schemas(crds)
    return validator


@pytest.fixture
def api_server(schemas: Schemas, crds: Path) -> Iterator[Any]:
    """A Kubernetes API server in this process (tests/kubernetes_api)."""
    with _server.ApiServer(schemas, crds) as running:
        yield running


@pytest.fixture
def secret_objects(api_server: Any, tmp_path: Path) -> Iterator[SecretObjects]:
    """The Secrets of the platform's namespace there."""
    cluster = Cluster(ClusterSettings(api_server.kubeconfig(tmp_path / "kubeconfig")))
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llmariner"}})
    yield SecretObjects(cluster, "llmariner")
    cluster.close()


Declare = Callable[..., None]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without functions."""
    return _empty(tmp_path)


@pytest.fixture
def function(checkout: Path) -> Declare:
    """Declares a function: `function("models", "GET /v1/models", timeout_seconds="5")`."""
    return partial(_function, checkout)


@pytest.fixture
def consumer(checkout: Path) -> Declare:
    """Declares an event consumer: `consumer("sweep", "ai.llmariner.platform.tick.v1", every_minutes="1")`."""
    return partial(_consumer, checkout)


@pytest.fixture(scope="session")
def small_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform of four functions and two consumers with generated manifests; shared, so not to be modified."""
    root = _empty(tmp_path_factory.mktemp("small_checkout"))
    _function(root, "chat_completions", "POST /v1/chat/completions", timeout_seconds="3600")
    _function(root, "models", "GET /v1/models", "GET /v1/models/{id:path}", extras="api,database")
    _function(root, "internal_gateway", "POST /internal/key", visibility="cluster-local", extras="database")
    _function(root, "health", "GET /health")
    _consumer(root, "model_status", "ai.llmariner.model.ready")
    _consumer(root, "sweep", "ai.llmariner.platform.tick.v1")
    list(write_files(root))
    return root


def _empty(root: Path) -> Path:
    """Copy the handwritten manifests and the engines' runtimes to `root`."""
    for folder in ("manifests/overlays", "manifests/components", "kserve"):
        shutil.copytree(CHECKOUT / folder, root / folder)
    return root


def _function(root: Path, folder: str, *routes: str, run: Any = None, options: Any = None, **annotations: str) -> None:
    body = {
        "specVersion": "0.36.0",
        "name": folder.replace("_", "-"),
        "runtime": "python",
        "created": "2026-11-24T00:00:00Z",
        "invoke": "http",
        "run": run or {},
        "deploy": {
            "options": options or {},
            "healthEndpoints": {"liveness": "/health/live", "readiness": "/health/ready"},
            "annotations": {"llmariner.ai/routes": "\n".join(routes), **_annotations(annotations)},
        },
    }
    _write(root / "functions" / folder / "func.yaml", body)


def _consumer(root: Path, folder: str, event_type: str, broker: str = "default", **annotations: str) -> None:
    name = folder.replace("_", "-")
    body = {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": name, "annotations": _annotations(annotations)},
        "spec": {
            "broker": broker,
            "filter": {"attributes": {"type": event_type}},
            "subscriber": {
                "ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name},
            },
        },
    }
    _write(root / "eventing" / folder / "trigger.yaml", body)


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    return {f"llmariner.ai/{key.replace('_', '-')}": value for key, value in annotations.items()}


def _write(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
