"""Home and worker clusters, where jobs run."""

from __future__ import annotations

import pytest

from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import KeyOwner

from .clusters_of_jobs import Clusters


@pytest.fixture
def here(database: Database, owner: KeyOwner) -> Clusters:
    return Clusters(database, owner)
