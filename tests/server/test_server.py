"""HTTP/1.1 conformance of the server, as bytes on a socket."""

from __future__ import annotations

import asyncio
import json
import weakref
from contextvars import ContextVar
from email.utils import formatdate
from typing import Any

import pytest

from llmariner.server.server import http_date

from .conftest import body_of, echo, exchange, serving, wait_until

CLOSE = b"connection: close\r\n"


async def stream(_scope: Any, receive: Any, send: Any) -> None:
    """Responds in two parts, without a content-length."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})


async def respond_without_reading(_scope: Any, _receive: Any, send: Any) -> None:
    """Responds without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("request_bytes", "seen"),
    [
        (b"GET /a%20b?c=d HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n", {"path": "/a b", "query": "c=d", "body": ""}),
        (b"POST / HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"content-length: 3\r\n\r\nabc", {"body": "abc"}),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\n"
            + CLOSE
            + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            {"body": "abcde"},
        ),
        (b"GET / HTTP/1.0\r\n\r\n", {"path": "/"}),
        (b"POST /up HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: Upgrade, close\r\n\r\n", {"path": "/up"}),
    ],
    ids=["escaped path and query", "body by length", "chunked body", "HTTP/1.0", "an upgrade that is not taken"],
)
def test_a_request_is_parsed_correctly(request_bytes: bytes, seen: dict[str, str]) -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            return await exchange(port, request_bytes)

    answer = json.loads(body_of(asyncio.run(run())))
    assert {name: answer[name] for name in seen} == seen


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nab", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n", 431),
    ],
    ids=["no HTTP", "broken URL", "two lengths", "length and chunks", "endless head"],
)
def test_a_malformed_request_is_rejected_in_openais_format(request_bytes: bytes, status: int) -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            return await exchange(port, request_bytes)

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"x-request-id: req_" in answer
    assert set(json.loads(body_of(answer))["error"]) == {"message", "type", "param", "code"}


def test_pipelined_requests_get_responses_in_order() -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(20))
            return await exchange(port, requests + b"GET /end HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n")

    answer = asyncio.run(run())
    places = [answer.index(b'"path": "/%d"' % number) for number in range(20)]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200") == 21


def test_a_response_without_a_length_is_chunked_in_1_1_and_closes_the_connection_in_1_0() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with serving(stream) as (_, port):
            new = await exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n")
            return new, await exchange(port, b"GET / HTTP/1.0\r\n\r\n")

    new, old = asyncio.run(run())
    assert body_of(new) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert body_of(old) == b"onetwo"


def test_head_gets_no_body() -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            return await exchange(port, b"HEAD / HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n")

    answer = asyncio.run(run())
    assert b"content-length: " in answer
    assert body_of(answer) == b""


def test_a_client_that_expects_100_continue_gets_it() -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n" + CLOSE + b"\r\n"
            )
            leave = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
            writer.write(b"abc")
            answer = await asyncio.wait_for(reader.read(), 2)
            writer.close()
            return leave + answer

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert b'"body": "abc"' in answer


def test_an_unread_body_is_not_parsed_as_the_next_request() -> None:
    async def run() -> bytes:
        async with serving(respond_without_reading) as (_, port):
            smuggled = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n"
            return await exchange(port, head + smuggled)

    answer = asyncio.run(run())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.filterwarnings("ignore")
def test_an_application_that_fails_before_its_response_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bytes:
        async with serving(failing) as (_, port):
            return await exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"on purpose" not in answer
    assert "on purpose" in caplog.text


def test_the_shutdown_waits_for_running_requests() -> None:
    entered = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.sleep(0.3)
        await stream(scope, receive, send)

    async def run() -> bytes:
        async with serving(slow) as (server, port):
            asked = asyncio.create_task(exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
            await entered.wait()
            server.shut_down()
            return await asked

    assert body_of(asyncio.run(run())).endswith(b"0\r\n\r\n")


def test_a_disconnect_is_reported_to_the_application_in_both_ways() -> None:
    reported: list[str] = []

    async def waiting(scope: Any, receive: Any, _send: Any) -> None:
        scope["extensions"]["llmariner.response"].add_disconnect_callback(lambda: reported.append("callback"))
        await receive()
        reported.append((await receive())["type"])

    async def run() -> None:
        async with serving(waiting) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.sleep(0.1)
            writer.close()
            await wait_until(lambda: len(reported) == 2)

    asyncio.run(run())
    assert sorted(reported) == ["callback", "http.disconnect"]


def test_a_stalled_reader_applies_backpressure() -> None:
    written = 0

    async def endless(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal written
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while written < 200_000_000:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            written += 65536

    async def run() -> int:
        async with serving(endless, grace=0.1) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.sleep(0.5)
            while_not_read = written
            writer.transport.abort()
            return while_not_read

    assert 0 < asyncio.run(run()) < 50_000_000


@pytest.mark.parametrize(
    "seconds", [0.0, 951_782_399.5, 951_782_400.0, 1_798_761_599.9, 1_798_761_600.0, 4_102_444_800.0]
)
def test_dates_have_the_format_of_rfc_9110(seconds: float) -> None:
    """Among them the first and last second of a year, and 29 February."""
    assert http_date(seconds) == formatdate(seconds, usegmt=True)


_CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


@pytest.mark.parametrize("canceled", [False, True])
def test_a_request_finds_no_trace_of_the_one_before_on_its_connection(canceled: bool) -> None:
    """Requests of one connection share a task, and a proxy sends those of many clients on one connection."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        task = asyncio.current_task()
        assert task is not None
        seen = f"{_CALLER.get()} {task.cancelling()}".encode()
        _CALLER.set(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(seen))]})
        await send({"type": "http.response.body", "body": seen})
        if canceled:
            task.cancel()
            await asyncio.sleep(0)

    async def run() -> bytes:
        async with serving(application) as (_, port):
            head = b"GET /alice HTTP/1.1\r\nhost: x\r\n"
            return await exchange(port, head + b"\r\n" + head + CLOSE + b"\r\n")

    assert asyncio.run(run()).count(b"nobody 0") == 2


def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    kept: list[weakref.ref[Any]] = []

    class Mark:
        """Something that can be referred to weakly, as a scope can't."""

    async def mark(scope: Any, receive: Any, send: Any) -> None:
        scope["mark"] = Mark()
        kept.append(weakref.ref(scope["mark"]))
        await respond_without_reading(scope, receive, send)

    async def run() -> None:
        async with serving(mark) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
            await wait_until(lambda: kept[0]() is None)
            writer.close()

    asyncio.run(run())
