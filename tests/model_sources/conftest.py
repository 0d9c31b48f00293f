"""A server of models, and sources that read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.model_files.blobs import BlobStore

from .model_server import ModelServer, running_server


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models" / "blobs")
