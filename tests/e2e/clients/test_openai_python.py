"""The `openai` package for Python, in its newest and in its second major version."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .environments import python
from .outcomes import SCRIPTS, Outcomes, declared

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
SCRIPT = "openai_python.py"
CAPABILITIES = declared(SCRIPT)


@pytest.fixture(scope="module", params=["openai-3", "openai-2"])
def outcomes(request: pytest.FixtureRequest, tried: Callable[..., Outcomes]) -> Outcomes:
    return tried(python(request.param), SCRIPTS / SCRIPT)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_client_supports(outcomes: Outcomes, capability: str) -> None:
    assert outcomes[capability] == "ok"


def test_the_script_covers_its_table(outcomes: Outcomes) -> None:
    assert outcomes.names == CAPABILITIES


def test_a_closed_stream_is_recorded_as_cancelled_and_a_complete_one_is_not(outcomes: Outcomes) -> None:
    """The SDK closes its connection as soon as it has read [DONE], which is no hang-up."""
    assert outcomes.cancelled == 1
