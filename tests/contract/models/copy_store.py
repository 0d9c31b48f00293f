"""An object store for copies of models, and what KServe on the test cluster needs to fetch them from it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmariner.manifests.model_copies import MODEL_STORE, storage_container
from llmariner.platform.objects.s3_clients import S3Clients

from ..other_tests import images as _images
from ..other_tests import kubectl as _kubectl
from ..other_tests import places as _places
from ..other_tests import relay as _relay
from ..platform.objects import radosgw

__all__ = ["BUCKET", "copy_store", "fetched_by_us", "reached_by_pods"]

BUCKET = "models"
Body = dict[str, Any]


@contextlib.contextmanager
def copy_store(disk_bytes: int = 5 << 30) -> Iterator[radosgw.Gateway]:
    """An object store whose user `reader` may read copies of models. Skips where it can't run."""
    try:
        with radosgw.running(disk_bytes) as made:
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


@contextlib.contextmanager
def reached_by_pods(gateway: radosgw.Gateway) -> Iterator[str]:
    """A URL at which pods reach the store."""
    with _relay.Relay(_places.chosen().host_address) as relay:
        relay.to("127.0.0.1", urlsplit(gateway.http).port or 0)
        yield relay.url


@contextlib.contextmanager
def fetched_by_us(gateway: radosgw.Gateway, namespace: str) -> Iterator[None]:
    """What `components/model-copies` and an administrator create, in the namespace of models."""
    lab, name = _places.chosen(), storage_container()["metadata"]["name"]
    container: Body = storage_container()
    image = f"dev.local/{container['spec']['container']['image']}"
    if image not in _images.present(lab):
        pytest.skip(f"the test cluster has no image {image}; `python -m tests.cluster.platform up` makes it")
    container["spec"]["container"]["image"] = image
    with reached_by_pods(gateway) as url:
        values = {
            "LLMARINER_S3_BUCKET": BUCKET,
            "LLMARINER_S3_ENDPOINT": url,
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
