"""curl, and HTTP written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .outcomes import SCRIPTS, Outcomes, declared

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
SCRIPT = "curl.sh"
CAPABILITIES = declared(SCRIPT)


@pytest.fixture(scope="module")
def outcomes(tried: Callable[..., Outcomes]) -> Outcomes:
    return tried("bash", SCRIPTS / SCRIPT)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_client_supports(outcomes: Outcomes, capability: str) -> None:
    assert outcomes[capability] == "ok"


def test_the_script_covers_its_table(outcomes: Outcomes) -> None:
    assert outcomes.names == CAPABILITIES


def test_a_closed_stream_is_recorded_as_cancelled(outcomes: Outcomes) -> None:
    assert outcomes.cancelled == 1
