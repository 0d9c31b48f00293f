"""A model with several replicas: requests are distributed by load, and usage is read from the replica that served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from .caller import Answer, chat
from .running_platform import EngineProcess, Platform, eventually, soon

PATH = "/v1/chat/completions"


@pytest.fixture
def engines() -> Iterator[list[EngineProcess]]:
    started = [EngineProcess.start("--token-interval", "10") for _ in range(3)]
    yield started
    for engine in started:
        engine.kill()


def served_by(platform: Platform, name: str, engines: list[EngineProcess]) -> str:
    platform.model(name)
    replicas = [f"http://127.0.0.1:{engine.port}" for engine in engines]
    (platform.folder / f"{name}.json").write_text(json.dumps({"replicas": replicas}))
    return name


def test_requests_go_to_the_replica_with_the_fewest_running(platform: Platform, engines: list[EngineProcess]) -> None:
    model = served_by(platform, "spread", engines)

    async def scenario() -> list[int]:
        streams = [await platform.caller.stream(model, max_tokens=100_000) for _ in range(6)]
        for stream in streams:
            await stream.until(b"data: ")
        shares = [engine.running for engine in engines]
        for stream in streams:
            stream.hang_up()
        await soon(lambda: not any(engine.running for engine in engines))
        # What ended is not counted any more: two and one again, and not all on one.
        again = [await platform.caller.stream(model, max_tokens=100_000) for _ in range(3)]
        for stream in again:
            await stream.until(b"data: ")
        assert sorted(engine.running for engine in engines) == [1, 1, 1]
        for stream in again:
            stream.hang_up()
        return shares

    assert asyncio.run(scenario()) == [2, 2, 2]


def test_usage_is_read_from_the_replica_that_served_the_request(
    platform: Platform, engines: list[EngineProcess]
) -> None:
    """Nothing of a whole answer was relayed, so the count can only be the engine's own."""
    model = served_by(platform, "settled", engines)

    async def scenario() -> list[Answer]:
        answers = [await platform.caller.open(PATH, chat(model, max_tokens=100_000)) for _ in range(3)]
        await soon(lambda: all(engine.tokens > 10 for engine in engines))
        for answer in answers:
            answer.hang_up()
        return answers

    asyncio.run(scenario())
    eventually(lambda: not any(engine.running for engine in engines))
    eventually(lambda: len(platform.ledger(model)) == 3)
    recorded = sorted(row["completion_tokens"] for row in platform.ledger(model))
    assert recorded == sorted(engine.tokens for engine in engines)


def test_a_missing_replica_is_skipped_and_no_request_fails(platform: Platform, engines: list[EngineProcess]) -> None:
    model = served_by(platform, "one-gone", engines)
    engines[0].kill()
    for _ in range(8):
        assert asyncio.run(platform.caller.chat(model, max_tokens=1)).status == 200
    assert engines[1].tokens + engines[2].tokens == 8
