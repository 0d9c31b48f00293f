"""The mark of tests that run while no others compute."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declared here, since a change of pyproject.toml makes every environment again."""
    config.addinivalue_line(
        "markers", "quiet: measures short times or memory, so only others of its kind run beside it"
    )
