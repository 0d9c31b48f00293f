"""`langchain-openai`, which brings its own copy of the SDK."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .environments import python
from .outcomes import SCRIPTS, Outcomes, declared

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
SCRIPT = "langchain_openai_client.py"
CAPABILITIES = declared(SCRIPT)


@pytest.fixture(scope="module")
def outcomes(tried: Callable[..., Outcomes]) -> Outcomes:
    return tried(python("langchain-openai"), SCRIPTS / SCRIPT)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_client_supports(outcomes: Outcomes, capability: str) -> None:
    assert outcomes[capability] == "ok"


def test_the_script_covers_its_table(outcomes: Outcomes) -> None:
    assert outcomes.names == CAPABILITIES


def test_a_closed_stream_is_recorded_as_cancelled(outcomes: Outcomes) -> None:
    assert outcomes.cancelled == 1
