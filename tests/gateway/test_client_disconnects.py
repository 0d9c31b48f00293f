"""A client's disconnect aborts the engine's work within a second, streamed or not, and is recorded in the ledger."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from .caller import Answer, chat
from .running_platform import Platform, eventually, soon

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(served: Platform) -> str:
    name = served.model("endless", "--token-interval", "10", capacity=2)
    asyncio.run(served.caller.chat(name, max_tokens=1))
    return name


def since(served: Platform, model: str, began: float) -> list[dict[str, Any]]:
    return [row for row in served.ledger(model) if row["admitted_at"] >= began]


@pytest.mark.quiet
def test_a_disconnect_from_a_stream_aborts_the_engines_request_within_a_second(served: Platform, model: str) -> None:
    engine = served.engine(model)

    async def scenario() -> Answer:
        answer = await served.caller.stream(model, max_tokens=100_000)
        await answer.until(b"data: ", 20)
        assert engine.running == 1
        answer.hang_up()
        return answer

    answer = asyncio.run(scenario())
    assert eventually(lambda: engine.running == 0, what="the end of the request") < 1
    row = served.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["status"]) == ("cancelled", 499)
    assert row["completion_tokens"] >= 19


@pytest.mark.quiet
def test_a_disconnect_before_the_response_aborts_the_engines_request_within_a_second(
    served: Platform, model: str
) -> None:
    engine = served.engine(model)

    async def scenario() -> None:
        answer = await served.caller.open(PATH, chat(model, max_tokens=100_000))
        await soon(lambda: engine.running == 1)
        answer.hang_up()

    began = time.time()
    asyncio.run(scenario())
    assert eventually(lambda: engine.running == 0, what="the end of the request") < 1
    eventually(lambda: since(served, model, began), what="the request in the ledger")
    (row,) = since(served, model, began)
    assert (row["outcome"], row["status"], row["prompt_tokens"]) == ("cancelled", 499, 3)


def test_a_disconnect_before_the_first_token_costs_the_prompt(served: Platform, model: str) -> None:
    engine = served.engine(model)

    async def scenario() -> None:
        answer = await served.caller.open(PATH, chat(model, max_tokens=100, x_script={"delay_ms": 60_000}))
        await soon(lambda: engine.running == 1)
        answer.hang_up()

    began = time.time()
    asyncio.run(scenario())
    eventually(lambda: since(served, model, began), what="the request in the ledger")
    (row,) = since(served, model, began)
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("cancelled", 3, 0)


def test_a_disconnect_within_the_body_leaves_nothing_behind(served: Platform, model: str) -> None:
    async def scenario() -> None:
        answer = await served.caller.open(PATH, b'{"model":', headers={"content-length": "1000"})
        await asyncio.sleep(0.1)
        answer.hang_up()

    began = time.time()
    asyncio.run(scenario())
    answer = asyncio.run(served.caller.chat(model, max_tokens=1))
    assert served.row(answer.headers["x-request-id"])["outcome"] == "succeeded"
    assert len(since(served, model, began)) == 1


@pytest.mark.quiet
def test_a_disconnect_at_any_time_aborts_the_engines_request_within_a_second(served: Platform, model: str) -> None:
    engine = served.engine(model)

    async def scenario() -> None:
        for number in range(20):
            # An uncached key: the client disconnects during its lookup.
            caller = served.key(f"hasty-{number}")[1]
            answer = await caller.open(PATH, chat(model, max_tokens=100_000))
            await answer.writer.drain()
            await asyncio.sleep(number / 1000)
            answer.hang_up()

    asyncio.run(scenario())
    time.sleep(1)
    assert (engine.running, engine.waiting) == (0, 0)
    assert all(row["outcome"] != "succeeded" for row in served.ledger(model) if row["completion_tokens"] > 3)


def test_slots_of_disconnected_clients_go_to_waiting_requests(served: Platform, model: str) -> None:
    async def scenario() -> Answer:
        leaving = [await served.caller.stream(model, max_tokens=100_000) for _ in range(2)]
        for answer in leaving:
            await answer.until(b"data: ")
        waiting = await served.caller.stream(model, max_tokens=3)
        await waiting.until(b": {")
        for answer in leaving:
            answer.hang_up()
        return await asyncio.wait_for(waiting.read(), 5)

    assert asyncio.run(scenario()).events()[-1] == "[DONE]"


def test_clients_that_left_while_the_model_slept_are_not_served(served: Platform) -> None:
    name = served.model("sleeper", "--token-interval", "10", "--ready-after", "1")

    async def scenario() -> None:
        for number in range(30):
            answer = await served.caller.open(PATH, chat(name, max_tokens=1_000))
            await answer.writer.drain()
            await asyncio.sleep(number / 3000)
            answer.hang_up()

    asyncio.run(scenario())
    eventually(lambda: served.engines(name), what="the engine's start")
    time.sleep(2.5)
    assert served.engine(name).tokens == 0
    assert {row["outcome"] for row in served.ledger(name)} <= {"cancelled"}
    eventually(lambda: f'llmariner_requests_waiting{{gen_ai_request_model="{name}"}} 0' in served.metrics())
    assert f'llmariner_requests_running{{gen_ai_request_model="{name}"}} 0' in served.metrics()
