"""An S3-compatible store and a Milvus on this machine, and the platform with the components that use them.

Both listen on loopback. Pods reach them by ports of the cluster's host address.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pymilvus import MilvusClient

from llmariner.manifests.installation import NAMESPACE
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

__all__ = ["DocumentStores", "NoGateway", "documents_overlay", "platform_with_stores", "running_stores"]

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
    lab = installed.lab
    try:
        apply(lab, stores.secrets())
        _apply(installed, documents_overlay(lab.folder, stores, **settings))
        yield
    finally:
        _apply(installed, write(lab.folder / "overlay"))
        kubectl(lab, "delete", "secret", *_SECRETS, "-n", NAMESPACE, "--ignore-not-found")


def documents_overlay(lab_folder: Path, stores: DocumentStores, **more: str) -> Path:
    """The test overlay with the components `object-store` and `milvus`, their settings, and more of them."""
    literals = [f"{name}={value}" for name, value in {**stores.settings(), **more}.items()]
    settings = {"name": "llmariner-settings", "namespace": NAMESPACE, "behavior": "merge", "literals": literals}
    generators = [{**settings, "options": {"disableNameSuffixHash": True}}]
    return over(lab_folder, "overlay-documents", "object-store", "milvus", configMapGenerator=generators)


def _create_bucket(settings: S3Settings) -> None:
    S3Clients(settings).client.create_bucket(Bucket=settings.bucket)


def _apply(installed: Installed, overlay: Path) -> None:
    """Functions that are awake restart: those without a changed template would keep the settings of before."""
    lab = installed.lab
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    kubectl(lab, "delete", "pods", "-n", NAMESPACE, "-l", "serving.knative.dev/service", seconds=300)
    functions = Functions(installed)
    for name in functions.services():
        functions.ready(name, seconds=300)
