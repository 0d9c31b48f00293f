"""An S3-compatible store and a Milvus on this machine, and the platform with the components that use them.

Both listen on loopback. Pods reach them by ports of the cluster's host address.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pymilvus import MilvusClient

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE
from llmariner.manifests.model_copies import MODEL_STORE, storage_container
from llmariner.object_settings import S3Settings
from llmariner.platform.objects.s3 import S3Objects
from llmariner.platform.objects.s3_clients import S3Clients
from llmariner.platform.vectors import Collection
from llmariner.platform.vectors.milvus import collection_name
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess

from ...lab.kubectl import apply, kubectl
from ...platform.installed import Installed
from ...platform.overlay import over, write
from ..functions import Functions
from ..relay import Relay

if TYPE_CHECKING:
    from contract.platform.objects.radosgw import Gateway

__all__ = [
    "DocumentStores",
    "NoGateway",
    "documents_overlay",
    "platform_with_copies",
    "platform_with_stores",
    "running_stores",
]

_radosgw = importlib.import_module("....contract.platform.objects.radosgw", __package__)
NoGateway: type[Exception] = _radosgw.NoGateway
"""This machine can't run the object store; the message has the cause."""

_BUCKET = "documents"
_SECRETS = ("llmariner-object-store", "llmariner-milvus")


@dataclass(frozen=True)
class DocumentStores:
    """What is in both stores, read past the platform. The URLs are those that pods use."""

    gateway: Gateway
    milvus: MilvusLiteProcess
    s3_url: str
    milvus_url: str

    def keys(self) -> list[str]:
        """The keys of all objects in the bucket."""
        return [each.key for each in S3Objects(self.gateway.settings(_BUCKET)).list("")]

    def has_chunks(self, collection: Collection) -> bool:
        """Whether the index has chunks of any project."""
        settings = self.milvus.settings()
        with contextlib.closing(MilvusClient(settings.uri, token=settings.token.reveal())) as client:
            return bool(client.query(collection_name(collection), filter='id != ""', output_fields=["id"], limit=1))

    def settings(self) -> dict[str, str]:
        """Lines of settings.env."""
        return {
            "LLMARINER_S3_BUCKET": _BUCKET,
            "LLMARINER_S3_ENDPOINT": self.s3_url,
            "LLMARINER_MILVUS_URI": self.milvus_url,
            # What `llma up` uses with Milvus Lite.
            "LLMARINER_MILVUS_INDEX": "FLAT",
        }

    def readers_secret(self) -> dict[str, Any]:
        """As the administrator creates it for engines' pods: it opens copies of models and nothing else."""
        values = {
            "LLMARINER_S3_BUCKET": _BUCKET,
            "LLMARINER_S3_ENDPOINT": self.s3_url,
            "LLMARINER_S3_ACCESS_KEY": self.gateway.reader_access_key,
            "LLMARINER_S3_SECRET_KEY": self.gateway.reader_secret_key,
        }
        metadata = {"name": MODEL_STORE, "namespace": MODELS_NAMESPACE}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}

    def put(self, key: str, content: bytes) -> None:
        """Write an object past the platform."""
        S3Clients(self.gateway.settings(_BUCKET)).client.put_object(Bucket=_BUCKET, Key=key, Body=content)

    def location(self, key: str) -> str:
        """Of an object, or of those below it."""
        return f"s3://{_BUCKET}/{key}"

    def secrets(self) -> list[dict[str, Any]]:
        """The Secrets that an administrator creates, by name of the key."""
        values = (
            {"access-key": self.gateway.access_key, "secret-key": self.gateway.secret_key},
            {"token": self.milvus.settings().token.reveal()},
        )
        return [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "stringData": each,
            }
            for name, each in zip(_SECRETS, values, strict=True)
        ]


@contextlib.contextmanager
def running_stores(folder: Path, host: str) -> Iterator[DocumentStores]:
    """Run both stores for the block, with ports on `host`; `folder` has the index. Raises NoGateway without Ceph."""
    milvus = MilvusLiteProcess(folder / "index", folder / "milvus-lite.log")
    with contextlib.closing(milvus), _radosgw.running() as gateway, Relay(host) as s3, Relay(host) as index:
        for relay, url in ((s3, gateway.http), (index, milvus.settings().uri)):
            relay.to("127.0.0.1", urlsplit(url).port or 0)
        _create_bucket(gateway.settings(_BUCKET))
        yield DocumentStores(gateway, milvus, s3.url, index.url)


@contextlib.contextmanager
def platform_with_stores(installed: Installed, stores: DocumentStores, **settings: str) -> Iterator[None]:
    """The platform with both components, as manifests/README.md describes them; afterwards it has neither.

    `settings`: more of them.
    """
    with _applied(installed, stores.secrets(), documents_overlay(installed.lab.folder, stores, **settings)):
        yield


@contextlib.contextmanager
def platform_with_copies(installed: Installed, stores: DocumentStores, **settings: str) -> Iterator[None]:
    """The platform with the object store and copies of models, as `platform_with_stores`."""
    secrets = [each for each in stores.secrets() if each["metadata"]["name"] == _SECRETS[0]]
    secrets.append(stores.readers_secret())
    try:
        with _applied(installed, secrets, copies_overlay(installed.lab.folder, stores, **settings)):
            yield
    finally:
        name = storage_container()["metadata"]["name"]
        kubectl(installed.lab, "delete", "clusterstoragecontainer", name, "--ignore-not-found")


@contextlib.contextmanager
def _applied(installed: Installed, secrets: list[dict[str, Any]], overlay: Path) -> Iterator[None]:
    lab = installed.lab
    try:
        apply(lab, secrets)
        _apply(installed, overlay)
        yield
    finally:
        _apply(installed, write(lab.folder / "overlay"))
        for each in secrets:
            metadata = each["metadata"]
            kubectl(lab, "delete", "secret", metadata["name"], "-n", metadata["namespace"], "--ignore-not-found")


def documents_overlay(lab_folder: Path, stores: DocumentStores, **more: str) -> Path:
    """The test overlay with the components `object-store` and `milvus`, their settings, and more of them."""
    generators = _settings({**stores.settings(), **more})
    return over(lab_folder, "overlay-documents", "object-store", "milvus", configMapGenerator=generators)


def copies_overlay(lab_folder: Path, stores: DocumentStores, **more: str) -> Path:
    """The test overlay with the components `object-store` and `model-copies`, their settings, and more of them."""
    container = storage_container()
    image = f"dev.local/{container['spec']['container']['image']}"
    change = [{"op": "replace", "path": "/spec/container/image", "value": image}]
    target = {"kind": container["kind"], "name": container["metadata"]["name"]}
    patches = [{"target": target, "patch": json.dumps(change)}]
    generators = _settings({**stores.settings(), **more})
    components = ("object-store", "model-copies")
    return over(lab_folder, "overlay-copies", *components, configMapGenerator=generators, patches=patches)


def _settings(values: dict[str, str]) -> list[dict[str, Any]]:
    literals = [f"{name}={value}" for name, value in values.items()]
    settings = {"name": "llmariner-settings", "namespace": NAMESPACE, "behavior": "merge", "literals": literals}
    return [{**settings, "options": {"disableNameSuffixHash": True}}]


def _create_bucket(settings: S3Settings) -> None:
    """With the user `reader`, who may read copies of models."""
    client = S3Clients(settings).client
    client.create_bucket(Bucket=settings.bucket)
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/reader"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{settings.bucket}/models/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    client.put_bucket_policy(Bucket=settings.bucket, Policy=policy)


def _apply(installed: Installed, overlay: Path) -> None:
    """Functions that are awake restart: those without a changed template would keep the settings of before."""
    lab = installed.lab
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    kubectl(lab, "delete", "pods", "-n", NAMESPACE, "-l", "serving.knative.dev/service", seconds=300)
    functions = Functions(installed)
    for name in functions.services():
        functions.ready(name, seconds=300)
