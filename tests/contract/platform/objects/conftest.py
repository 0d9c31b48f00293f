"""The objects port's adapters: every test that asks for `store` runs on each of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from llmariner.object_settings import S3Settings
from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.folder import FolderObjects
from llmariner.platform.objects.s3 import S3Objects
from llmariner.platform.objects.s3_clients import S3Clients

from . import radosgw

BUCKET = "llmariner"


@pytest.fixture(scope="session")
def gateway() -> Iterator[radosgw.Gateway]:
    """The session's S3 server, with a bucket."""
    try:
        with radosgw.running() as gateway:
            plain_client(gateway).create_bucket(Bucket=BUCKET)
            yield gateway
    except radosgw.NoGateway as error:
        pytest.skip(str(error))


def plain_client(gateway: radosgw.Gateway) -> Any:
    """A client of boto3 that shares nothing with the adapter."""
    return boto3.client(
        "s3",
        endpoint_url=gateway.http,
        region_name="us-east-1",
        aws_access_key_id=gateway.access_key,
        aws_secret_access_key=gateway.secret_key,
    )


@pytest.fixture(scope="session")
def client(gateway: radosgw.Gateway) -> Any:
    """A client of boto3 that shares nothing with the adapter."""
    return plain_client(gateway)


@pytest.fixture
def settings(gateway: radosgw.Gateway) -> S3Settings:
    """Settings of a prefix of the bucket that no other test uses."""
    return replace(gateway.settings(BUCKET), prefix=f"{uuid.uuid4().hex}/")


@pytest.fixture(scope="session")
def clients(gateway: radosgw.Gateway) -> Iterator[S3Clients]:
    """The clients of all stores with the usual settings."""
    clients = S3Clients(gateway.settings(BUCKET))
    yield clients
    clients.close()


@pytest.fixture
def s3(settings: S3Settings, clients: S3Clients) -> Iterator[S3Objects]:
    """An empty store in the bucket."""
    objects = S3Objects(settings, clients)
    yield objects
    objects.close()


@pytest.fixture
def new_s3(settings: S3Settings) -> Iterator[Callable[..., S3Objects]]:
    """Makes stores with other settings."""
    with ExitStack() as made:

        def make(**other: Any) -> S3Objects:
            changed = replace(settings, **other)
            clients = S3Clients(changed)
            made.callback(clients.close)
            objects = S3Objects(changed, clients)
            made.callback(objects.close)
            return objects

        yield make


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store."""
    if request.param == "folder":
        return FolderObjects(tmp_path / "objects")
    found: S3Objects = request.getfixturevalue("s3")
    return found
