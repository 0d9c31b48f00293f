"""What tests of showback share."""

from __future__ import annotations

import pytest

from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocations
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller


@pytest.fixture
def store(database: Database) -> Allocations:
    return Allocations(database)


@pytest.fixture
def caller(owner: KeyOwner) -> Caller:
    return Caller(owner.user_id, "admin@localhost", owner.organization_id, None, "owner", None, frozenset())
