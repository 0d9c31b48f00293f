"""The shared issuer; a test that stops it or rotates its keys starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .issuer import RunningIssuer


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningIssuer]:
    """A running issuer with the one client `llmariner`."""
    with RunningIssuer(tmp_path_factory.mktemp("issuer")) as running:
        yield running
