"""On the test cluster: KServe starts an engine from a model's copy in the object store, when the hub is away.

The copy is made by this process, and read by a pod with credentials that open copies and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.context import Context
from llmariner.manifests.model_copies import COPIES_IMAGE, MODEL_STORE
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.model import LoadingStatus, Model, NewModel, SourceRepository
from llmariner.models.weight_loads import load_weights
from llmariner.models.weights import StorageUriFetcher
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.objects.s3 import S3Objects
from llmariner.settings import ModelSettings, S3Settings

from ..fine_tuning.engine_on_cluster import ask_model, engine_namespace
from ..fine_tuning.training_on_cluster import packaged_weights
from ..other_tests import kubectl as _kubectl
from ..other_tests import model_server as _server
from ..other_tests import places as _places
from ..other_tests import processes as _processes
from ..platform.objects import radosgw
from .copy_store import BUCKET, copy_store, fetched_by_us

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MODEL, REPOSITORY = "copied-smollm2", "tests/smollm2"
DIGESTS = """\
import hashlib, json, pathlib
root = pathlib.Path("/mnt/models")
files = [each for each in root.rglob("*") if each.is_file()]
print(json.dumps({str(each.relative_to(root)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}))
"""
Body = dict[str, Any]


@pytest.fixture
def gateway() -> Iterator[radosgw.Gateway]:
    with copy_store() as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    lab = _places.chosen()
    if "kubelet" not in _processes.running(lab):
        pytest.skip("no test cluster is up; `make cluster` starts it")
    environment = {
        "LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path / 'platform.db'}",
        "LLMARINER_PEPPER": "0123456789abcdef" * 4,
        "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
        "LLMARINER_KUBECONFIG": str(lab.kubeconfig),
    }
    with contextlib.closing(Context(environment).database) as database:
        made = Context(environment)
        made.database = database
        upgrade(database)
        yield made


def copied(context: Context, gateway: radosgw.Gateway, files: dict[str, bytes]) -> Model:
    """A model of a hub, which is away once the model's copy is made."""
    store = S3Objects(gateway.settings(BUCKET))
    model = context.registry.create(NewModel(MODEL, SourceRepository.HUGGING_FACE, REPOSITORY))
    with _server.running_server() as hub:
        hub.repositories = {REPOSITORY: files}
        settings = ModelSettings(hub=hub.url)
        for slice_ in range(20):
            fetcher = CopyingFetcher(context.database, lambda: store, settings, S3Settings(), StorageUriFetcher())
            load_weights(context.registry, fetcher, Event(f"evt_{slice_}", "x", "models/m", 1.0, {"id": model.id}))
            model = context.registry.get(model.id)
            assert model.loading_status is not LoadingStatus.FAILED, model.loading_failure_reason
            if model.loaded:
                break
    assert model.folder.startswith("model-copy://mcopy_")
    return model


def test_kserve_starts_an_engine_from_the_copy_without_the_hub(context: Context, gateway: radosgw.Gateway) -> None:
    folder = packaged_weights()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = copied(context, gateway, files)
    pods: list[Body] = []
    found: list[dict[str, str]] = []

    def look() -> None:
        pods.extend(_kubectl.get(_places.chosen(), "pods", "-n", namespace)["items"])
        found.append(digests(pods[0], namespace))

    with engine_namespace() as namespace, fetched_by_us(gateway, namespace):
        answer = ask_model(context, model.id, "What is the capital of France?", namespace, seen=look)
    print(f"\n{answer}")
    assert "Paris" in answer
    (pod,) = pods
    (engine,) = pod["spec"]["containers"]
    (fetcher,) = (each for each in pod["spec"]["initContainers"] if each["name"] == "storage-initializer")
    assert COPIES_IMAGE in fetcher["image"]
    assert fetcher["args"] == [model.folder, "/mnt/models"]
    assert MODEL_STORE not in json.dumps(engine), "the container that fetches has the credentials alone"
    assert set(found[0]) <= set(files)
    assert {path: hashlib.sha256(files[path]).hexdigest() for path in found[0]} == found[0]
    assert "model.safetensors" in found[0]


def digests(pod: Body, namespace: str) -> dict[str, str]:
    """Of the files that the engine of a pod has, by their paths."""
    name, engine = pod["metadata"]["name"], pod["spec"]["containers"][0]
    command = ("exec", name, "-c", engine["name"], "-n", namespace, "--", engine["command"][0], "-c", DIGESTS)
    return dict(json.loads(_kubectl.kubectl(_places.chosen(), *command)))
