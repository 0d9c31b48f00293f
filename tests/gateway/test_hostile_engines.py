"""Whatever an engine answers, its own caller gets one answer, and all others are served as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from .caller import Answer, chat
from .raw_engine import RawEngine, Reply, raw_engine
from .running_platform import Platform, resident

PATH = "/v1/chat/completions"
HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(said: bytes, *, more: bytes = b"", pause: float = 0) -> Reply:
    """Healthy; responds to a request with `said`, then `more` forever, or nothing for a while."""

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        if b"POST" not in engine.requests[-1].split(b" ", 1)[0]:
            writer.write(HEALTHY)
            return
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            while more and not writer.is_closing():
                writer.write(more)
                await writer.drain()
        await asyncio.sleep(pause)

    return reply


@asynccontextmanager
async def served(platform: Platform, name: str, reply: Reply, engines: int = 1) -> AsyncIterator[list[RawEngine]]:
    """A model of that name, served by engines that reply so."""
    await asyncio.to_thread(platform.model, name)
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(raw_engine(reply)) for _ in range(engines)]
        (platform.folder / f"{name}.json").write_text(json.dumps({"replicas": [each.origin for each in started]}))
        yield started


def posts(engine: RawEngine) -> int:
    return sum(head.startswith(b"POST") for head in engine.requests)


ANSWER = b'{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":1}}'
HOSTILE = {
    "a count of five thousand digits": saying(whole(ANSWER % (b"9" * 5000))),
    "usage that is text": saying(whole(ANSWER % b'"many"')),
    "two answers": saying(whole(ANSWER % b"1") * 2),
    "a redirect": saying(whole(b"{}", b"302 Found")),
    "a refusal of five megabytes": saying(whole(b"x" * (5 << 20), b"400 Bad Request")),
    "a status out of range": saying(whole(b"{}", b"999 Oops")),
    "a head without an end": saying(b"HTTP/1.1 200 OK\r\n", more=b"x-a: b\r\n" * 1000),
    "interim answers without an end": saying(b"", more=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
    "no HTTP": saying(b"\x00\xff" * 1000),
    "a body cut off": saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nx", pause=30),
    "silence": saying(b"", pause=30),
    "an event without an end": saying(EVENTS, more=chunk(b"x" * 50_000)),
    "an empty stream": saying(EVENTS + b"0\r\n\r\n"),
    "a stream that stops": saying(EVENTS + chunk(b'data: {"choices":[]}\n\n'), pause=30),
    "a count of five thousand digits in an event": saying(
        EVENTS
        + chunk(b'data: {"choices":[],"usage":{"prompt_tokens":' + b"9" * 5000 + b"}}\n\n")
        + chunk(b"data: [DONE]\n\n")
        + b"0\r\n\r\n"
    ),
}


class KeepAliveConnection:
    """A connection on which one request follows another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> None:
        self.reader, self.writer = reader, writer
        self._head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n".encode()

    async def ask(self, body: dict[str, object]) -> Answer:
        """The answer, read to its end."""
        raw = json.dumps(body).encode()
        self.writer.write(self._head + b"content-length: %d\r\n\r\n" % len(raw) + raw)
        answer = await Answer(self.reader, self.writer).head()
        while part := await answer.chunk():
            answer.body += part
        return answer

    async def unasked(self) -> bytes:
        """Bytes that arrive without a request."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                return await self.reader.read(1000)
        return b""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_misbehaving_engine_affects_only_its_own_requests(
    hurried: Platform, healthy_model: str, what: str, stream: bool
) -> None:
    name = f"hostile-{list(HOSTILE).index(what)}-{stream}"
    before = resident(hurried.pid)

    async def scenario() -> tuple[Answer, bytes, Answer]:
        async with served(hurried, name, HOSTILE[what]) as (engine,), asyncio.timeout(25):
            pair = await asyncio.open_connection("127.0.0.1", hurried.port)
            connection = KeepAliveConnection(*pair, hurried.caller.secret)
            first = await connection.ask(chat(name, stream=stream))
            unasked = await connection.unasked()
            second = await connection.ask(chat(healthy_model, max_tokens=2))
            connection.writer.transport.abort()
            assert posts(engine) <= 2
            return first, unasked, second

    first, unasked, second = asyncio.run(scenario())
    assert unasked == b""
    assert (second.status, second.json()["usage"]["completion_tokens"]) == (200, 2)
    if first.status == 200 and stream:
        last = first.events()[-1]
        assert last == "[DONE]" or last["error"]["code"] == "engine_error"
    elif first.status != 200:
        assert first.error()["message"]
    assert resident(hurried.pid) - before < 100 << 20


@pytest.fixture(scope="module")
def healthy_model(hurried: Platform) -> str:
    name = hurried.model("honest")
    assert asyncio.run(hurried.caller.chat(name)).status == 200
    return name


def test_an_oversized_error_of_an_engine_costs_nothing(hurried: Platform) -> None:
    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        refuses = engine.requests[-1].startswith(b"POST")
        writer.write(whole(b"x" * (5 << 20), b"400 Bad Request") if refuses else whole(b"{}", b"404 Not Found"))

    async def scenario() -> Answer:
        async with served(hurried, "refusing", reply):
            return await hurried.caller.chat("refusing", max_tokens=9)

    answer = asyncio.run(scenario())
    row = hurried.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("failed", 0, 0)


def test_a_healthy_engine_that_fails_a_request_is_not_retried(hurried: Platform) -> None:
    async def scenario() -> tuple[Answer, int]:
        async with served(hurried, "failing", saying(whole(b"{}", b"500 Internal Server Error"))) as (engine,):
            return await hurried.caller.chat("failing"), posts(engine)

    answer, asked = asyncio.run(scenario())
    assert (answer.status, answer.error()["code"], asked) == (502, "engine_error", 1)


def test_a_request_failed_by_an_unhealthy_engine_is_retried_on_another(hurried: Platform) -> None:
    async def ailing(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"{}", b"503 Service Unavailable"))

    async def scenario() -> tuple[list[int], int]:
        async with served(hurried, "ailing", ailing) as (bad,), raw_engine(saying(whole(ANSWER % b"1"))) as good:
            rows = {"replicas": [bad.origin, good.origin]}
            (hurried.folder / "ailing.json").write_text(json.dumps(rows))
            statuses = [(await hurried.caller.chat("ailing")).status for _ in range(6)]
            return statuses, posts(bad)

    statuses, asked = asyncio.run(scenario())
    # The first request detects it; then the engine gets none for a while.
    assert (statuses, asked) == ([200] * 6, 1)


def test_large_responses_are_buffered_up_to_a_limit(hurried: Platform, healthy_model: str) -> None:
    """Each would be read to its end: what a process holds of all together is bounded."""
    before = resident(hurried.pid)

    async def scenario() -> list[int]:
        async with served(hurried, "verbose", saying(b"HTTP/1.1 200 OK\r\n\r\n", more=b"x" * 100_000)):
            answers = await asyncio.gather(*(hurried.caller.chat("verbose") for _ in range(20)))
            return [answer.status for answer in answers]

    assert set(asyncio.run(scenario())) <= {502, 503}
    assert resident(hurried.pid) - before < 60 << 20
    assert asyncio.run(hurried.caller.chat(healthy_model)).status == 200
