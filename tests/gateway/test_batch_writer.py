"""Events that the control function gathers and has not recorded yet, when one of the two processes is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .running_platform import EngineProcess
from .test_control_plane import Functions, booted

# After a gateway's flush, and before the batch is recorded.
HELD_SECONDS = 1.3


@pytest.fixture
def apart(tmp_path: Path, database: Path) -> Iterator[Functions]:
    """Neither of the two functions runs."""
    engine = EngineProcess.start("--model", "static", "--tokens", "3")
    try:
        functions = Functions(tmp_path, database, engine.port)
        yield functions
        functions.home.context.database.close()
    finally:
        engine.kill()


def held(functions: Functions) -> str:
    """A completed request that is not in the ledger; its id."""
    first = asyncio.run(functions.known.chat("static"))
    functions.home.row(first.headers["x-request-id"])
    answer = asyncio.run(functions.known.chat("static"))
    assert answer.status == 200
    time.sleep(HELD_SECONDS)
    request_id = answer.headers["x-request-id"]
    assert functions.home.context.ledger.request(request_id) is None
    return request_id


def counted_once(functions: Functions, request_id: str) -> None:
    row = functions.home.row(request_id)
    assert (row["outcome"], row["completion_tokens"]) == ("succeeded", 3)
    time.sleep(3)
    assert functions.home.context.ledger.rebuild(request_id)["completion_tokens"] == 3
    assert len(functions.home.ledger("static")) == 2


def test_pending_events_survive_a_killed_gateway(apart: Functions) -> None:
    with booted("internal_gateway", apart.control_port, apart.control, apart.log):
        with booted("chat_completions", apart.port, apart.gateway, apart.log) as gateway:
            request_id = held(apart)
            gateway.kill()
        counted_once(apart, request_id)


def test_pending_events_of_a_killed_control_plane_are_sent_again(apart: Functions) -> None:
    with booted("chat_completions", apart.port, apart.gateway, apart.log):
        with booted("internal_gateway", apart.control_port, apart.control, apart.log) as control:
            request_id = held(apart)
            control.kill()
        with booted("internal_gateway", apart.control_port, apart.control, apart.log):
            counted_once(apart, request_id)
