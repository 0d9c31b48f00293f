"""On the test cluster: KServe starts an engine from a model's copy in the object store, when the hub is away.

The copy is made by this process, and read by a pod with credentials that open copies and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from llmariner.context import Context
from llmariner.manifests.model_copies import COPIES_IMAGE, MODEL_STORE, storage_container
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.model import LoadingStatus, Model, NewModel, SourceRepository
from llmariner.models.weight_loads import load_weights
from llmariner.models.weights import StorageUriFetcher
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.objects.s3 import S3Objects
from llmariner.platform.objects.s3_clients import S3Clients
from llmariner.settings import ModelSettings, S3Settings

from ..fine_tuning.engine_on_cluster import ask_model, engine_namespace
from ..fine_tuning.training_on_cluster import packaged_weights
from ..platform.objects import radosgw

if TYPE_CHECKING:
    from cluster.lab import images as _images
    from cluster.lab import kubectl as _kubectl
    from cluster.lab import places as _places
    from cluster.lab import processes as _processes
    from cluster.scenarios import relay as _relay
    from standalone import model_server as _server
else:
    _images, _kubectl, _places, _processes, _relay, _server = (
        importlib.import_module(f"...{name}", __package__)
        for name in (
            *(f"cluster.lab.{each}" for each in ("images", "kubectl", "places", "processes")),
            *("cluster.scenarios.relay", "standalone.model_server"),
        )
    )

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BUCKET, MODEL, REPOSITORY = "models", "copied-smollm2", "tests/smollm2"
DIGESTS = """\
import hashlib, json, pathlib
root = pathlib.Path("/mnt/models")
files = [each for each in root.rglob("*") if each.is_file()]
print(json.dumps({str(each.relative_to(root)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}))
"""
Body = dict[str, Any]


@pytest.fixture
def gateway() -> Iterator[radosgw.Gateway]:
    """An object store whose user `reader` may read copies of models."""
    try:
        with radosgw.running() as made:
            client = S3Clients(made.settings(BUCKET)).client
            client.create_bucket(Bucket=BUCKET)
            allowed = {
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:aws:iam:::user/reader"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{BUCKET}/models/*"],
            }
            policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            client.put_bucket_policy(Bucket=BUCKET, Policy=policy)
            yield made
    except radosgw.NoGateway as error:
        pytest.skip(str(error))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    lab = _places.Lab()
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


@contextlib.contextmanager
def fetched_by_us(gateway: radosgw.Gateway, namespace: str) -> Iterator[None]:
    """What `components/model-copies` and an administrator create, in the namespace of models."""
    lab, name = _places.Lab(), storage_container()["metadata"]["name"]
    container: Body = storage_container()
    image = f"dev.local/{container['spec']['container']['image']}"
    if image not in _images.present(lab):
        pytest.skip(f"the test cluster has no image {image}; `python -m tests.cluster.platform up` makes it")
    container["spec"]["container"]["image"] = image
    with _relay.Relay(lab.host_address) as relay:
        relay.to("127.0.0.1", urlsplit(gateway.http).port or 0)
        values = {
            "LLMARINER_S3_BUCKET": BUCKET,
            "LLMARINER_S3_ENDPOINT": relay.url,
            "LLMARINER_S3_ACCESS_KEY": gateway.reader_access_key,
            "LLMARINER_S3_SECRET_KEY": gateway.reader_secret_key,
        }
        metadata = {"name": MODEL_STORE, "namespace": namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        _kubectl.apply(lab, [container, secret])
        try:
            yield
        finally:
            _kubectl.kubectl(lab, "delete", "clusterstoragecontainer", name, "--ignore-not-found")


def test_kserve_starts_an_engine_from_the_copy_without_the_hub(context: Context, gateway: radosgw.Gateway) -> None:
    folder = packaged_weights()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = copied(context, gateway, files)
    pods: list[Body] = []
    found: list[dict[str, str]] = []

    def look() -> None:
        pods.extend(_kubectl.get(_places.Lab(), "pods", "-n", namespace)["items"])
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
    return dict(json.loads(_kubectl.kubectl(_places.Lab(), *command)))
