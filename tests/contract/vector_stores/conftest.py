"""A shelf of vector stores in the owner's project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.database import Database
from llmariner.platform.vectors import VectorIndex
from llmariner.tenancy.principal import KeyOwner

from ..stored_files import Shelf
from .ingestion import Ingestion
from .token_path import TokenPath


@pytest.fixture
def shelf(database: Database, owner: KeyOwner) -> Shelf:
    return Shelf(database, owner)


@pytest.fixture
def other_shelf(database: Database, other_owner: KeyOwner) -> Shelf:
    """That of another organization."""
    return Shelf(database, other_owner)


@pytest.fixture
def token_path() -> Iterator[TokenPath]:
    made = TokenPath()
    yield made
    made.close()


@pytest.fixture
def ingestion(shelf: Shelf, vectors: VectorIndex, token_path: TokenPath, tmp_path: Path) -> Ingestion:
    return Ingestion(shelf, vectors, token_path, tmp_path)
