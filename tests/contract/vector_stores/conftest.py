"""A shelf of vector stores in the owner's project."""

from __future__ import annotations

import pytest

from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner

from ..stored_files import Shelf


@pytest.fixture
def shelf(database: Database, owner: KeyOwner) -> Shelf:
    return Shelf(database, owner)


@pytest.fixture
def other_shelf(database: Database, other_owner: KeyOwner) -> Shelf:
    """That of another organization."""
    return Shelf(database, other_owner)
