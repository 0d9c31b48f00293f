"""The `openai` package for Node."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .environments import node_modules
from .outcomes import SCRIPTS, Outcomes, declared

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
SCRIPT = "openai_node.mjs"
CAPABILITIES = declared(SCRIPT)


@pytest.fixture(scope="module")
def outcomes(tried: Callable[..., Outcomes], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(node_modules())
    return tried("node", Path(shutil.copy(SCRIPTS / SCRIPT, folder)))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_client_supports(outcomes: Outcomes, capability: str) -> None:
    assert outcomes[capability] == "ok"


def test_the_script_covers_its_table(outcomes: Outcomes) -> None:
    assert outcomes.names == CAPABILITIES


def test_a_closed_stream_is_recorded_as_cancelled(outcomes: Outcomes) -> None:
    assert outcomes.cancelled == 1
