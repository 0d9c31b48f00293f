"""A stream ends with its last event, and only a complete response is relayed as one."""

from __future__ import annotations

import asyncio
import time

import pytest

from .caller import Answer
from .raw_engine import RawEngine
from .running_platform import Platform, eventually
from .test_hostile_engines import ANSWER, EVENTS, chunk, posts, saying, whole
from .test_hostile_engines import served as answering

LAST = EVENTS + chunk(b"data: " + ANSWER % b"1" + b"\n\n") + chunk(b"data: [DONE]\n\n")
_COMMENT = chunk(b": x\n\n")


async def continue_after_end(engine: object, writer: asyncio.StreamWriter) -> None:
    """All of a stream but its end, and after a moment comments for as long as anybody listens."""
    writer.write(LAST)
    await writer.drain()
    while not writer.is_closing():
        await asyncio.sleep(0.1)
        writer.write(_COMMENT)
        await writer.drain()


BEYOND = {"silent": saying(LAST), "continued": continue_after_end, "broken": saying(LAST + b"no chunk")}


@pytest.mark.parametrize("hanging_up", [False, True])
@pytest.mark.parametrize("what", BEYOND)
def test_an_unclosed_stream_of_an_engine_delays_no_client(served: Platform, what: str, hanging_up: bool) -> None:
    name = f"unending-{list(BEYOND).index(what)}-{hanging_up}"

    async def scenario() -> Answer:
        async with answering(served, name, BEYOND[what]) as (engine,), asyncio.timeout(20):
            answer = await served.caller.stream(name)
            if hanging_up:
                await answer.until(b"[DONE]\n\n")
                answer.hang_up()
            else:
                await answer.read()
            await asyncio.to_thread(eventually, lambda: engine.closed == engine.connections)
            return answer

    answer = asyncio.run(scenario())
    assert answer.body.endswith(b"data: [DONE]\n\n")
    row = served.row(answer.headers["x-request-id"])
    # A caller that has all of a response has not disconnected early.
    assert (row["outcome"], row["status"], row["completion_tokens"]) == ("succeeded", 200, 1)
    assert f'llmariner_requests_running{{gen_ai_request_model="{name}"}} 0' in served.metrics()


def test_an_interrupted_stream_is_not_retried(platform: Platform) -> None:
    """A caller would get its beginning twice."""
    name = "broken-stream"
    said = EVENTS + chunk(b'data: {"choices":[{"index":0,"delta":{"content":"once"}}]}\n\n') + b"no chunk"

    async def scenario() -> tuple[Answer, int]:
        async with answering(platform, name, saying(said)) as (engine,):
            return await (await platform.caller.stream(name)).read(), posts(engine)

    answer, asked = asyncio.run(scenario())
    assert (answer.body.count(b"once"), asked) == (1, 1)
    assert answer.events()[-1]["error"]["code"] == "engine_error"


NO_ANSWERS = {
    "no content": whole(ANSWER % b"1", b"204 No Content"),
    "a reset": whole(ANSWER % b"1", b"205 Reset Content"),
    "a part": whole(ANSWER % b"1", b"206 Partial Content"),
    "a page": whole(b"<html>"),
    "nothing": whole(b""),
}


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_incomplete_response_is_an_engine_error_and_costs_nothing(platform: Platform, what: str) -> None:
    name = f"no-answer-{list(NO_ANSWERS).index(what)}"

    async def scenario() -> Answer:
        async with answering(platform, name, saying(NO_ANSWERS[what])):
            return await platform.caller.chat(name)

    answer = asyncio.run(scenario())
    assert (answer.status, answer.error()["code"]) == (502, "engine_error")
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("failed", 0, 0)


@pytest.mark.quiet
def test_a_request_that_meets_a_closed_idle_connection_succeeds_at_once(platform: Platform) -> None:
    """Else it would wait for its model's engine to be given up, and all others for that model with it."""
    name, disconnects = "closing-idle", 0

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        nonlocal disconnects
        if posts(engine) == 2 and not disconnects:
            disconnects += 1
            writer.transport.abort()
        else:
            writer.write(whole(ANSWER % b"1"))

    async def scenario() -> float:
        async with answering(platform, name, reply):
            assert (await platform.caller.chat(name)).status == 200
            began = time.monotonic()
            assert (await platform.caller.chat(name)).status == 200
            return time.monotonic() - began

    assert asyncio.run(scenario()) < 2
    assert disconnects == 1
