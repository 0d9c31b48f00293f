"""The objects port's adapters: every test that asks for `store` runs on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.folder import FolderObjects


@pytest.fixture(params=["folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store."""
    return FolderObjects(tmp_path / "objects")
