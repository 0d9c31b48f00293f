"""A model of a bucket is copied into the store of objects of a real S3 server, and fetched as KServe has it fetched."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.copies.slices import SliceLimits
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.weights import LoadingProgress, StorageUriFetcher
from llmariner.object_settings import S3Settings
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.objects.s3 import S3Objects
from llmariner.settings import DatabaseSettings, ModelSettings

from .conftest import BUCKET

_tiny = importlib.import_module("....standalone.tiny_model_files", __package__)
FILES = {"config.json": _tiny.CONFIG, "model.safetensors": _tiny.safetensors(3 << 20), "sub/tokenizer.json": b"{}"}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(DatabaseSettings(f"sqlite:///{tmp_path}/copies.db"))
    upgrade(database)
    return database


def storage_initializer(settings: S3Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the ClusterStorageContainer runs, with the Secret's values."""
    store = {
        "LLMARINER_S3_BUCKET": BUCKET,
        "LLMARINER_S3_PREFIX": settings.prefix,
        "LLMARINER_S3_ENDPOINT": settings.endpoint,
        "LLMARINER_S3_ACCESS_KEY": settings.access_key,
        "LLMARINER_S3_SECRET_KEY": settings.secret_key.reveal(),
    }
    command = [sys.executable, "-m", "llmariner.platform.model_files.object_copy", *arguments]
    return subprocess.run(
        command, env={**os.environ, **store}, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_model_of_a_bucket_arrives_at_the_engine(
    client: Any, s3: S3Objects, settings: S3Settings, database: Database, tmp_path: Path
) -> None:
    for name, content in FILES.items():
        client.put_object(Bucket=BUCKET, Key=f"{settings.prefix}given/m/{name}", Body=content)
    registry = ModelRegistry(database)
    location = f"s3://{BUCKET}/{settings.prefix}given/m"
    limits = SliceLimits(chunk_bytes=1 << 20)
    fetcher = CopyingFetcher(database, lambda: s3, ModelSettings(), settings, StorageUriFetcher(), limits=limits)
    model = registry.create(NewModel("m", SourceRepository.OBJECT_STORE, location))
    reports: list[LoadingProgress] = []
    fetched = fetcher.fetch(model, reports.append)
    assert [each.done_bytes for each in reports[1:]] == sorted(each.done_bytes for each in reports[1:])
    assert {each.total_bytes for each in reports[1:]} == {sum(map(len, FILES.values()))}
    target = tmp_path / "mount"
    done = storage_initializer(settings, fetched.folder, str(target))
    assert done.returncode == 0, done.stderr
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == FILES
    registry.delete(model.id, project_id=None)
    fetcher.remove_unused(seconds=10.0)
    gone = storage_initializer(settings, fetched.folder, str(tmp_path / "other"))
    assert gone.returncode == 1
    assert gone.stderr.splitlines()[-1] == "The copy is not in the object store: its model was deleted."
    database.close()
