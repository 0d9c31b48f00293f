"""The mark of tests that run while no others compute, and a collection of the tests without that of garbage."""

from __future__ import annotations

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declared here, since a change of pyproject.toml makes every environment again."""
    config.addinivalue_line(
        "markers", "quiet: measures short times or memory, so only others of its kind run beside it"
    )


def pytest_collection() -> None:
    """All of what is made now stays: to look through it again and again took a quarter of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """The tests themselves, 25,000 of them, are no garbage while they run."""
    gc.collect()
    gc.freeze()
    gc.enable()
