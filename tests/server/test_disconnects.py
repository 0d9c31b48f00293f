"""However a connection ends, no task keeps waiting and the server is unaffected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmariner.server import ServerLimits

from .conftest import exchange, serving, statuses, wait_until

PARTIAL = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"
COMPLETE = PARTIAL + b"defghij"


async def crash(_scope: Any, receive: Any, _send: Any) -> None:
    await receive()
    raise ValueError("on purpose")


async def crash_immediately(_scope: Any, _receive: Any, _send: Any) -> None:
    raise ValueError("on purpose")


async def await_canceled_task(_scope: Any, _receive: Any, _send: Any) -> None:
    shared = asyncio.get_running_loop().create_future()
    shared.cancel()
    await shared


@pytest.mark.parametrize("application", [crash, crash_immediately, await_canceled_task], ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "request_bytes", [COMPLETE, PARTIAL, COMPLETE + PARTIAL], ids=["whole", "partial", "next-partial"]
)
def test_a_failed_request_gets_a_response_at_any_point_of_its_body(application: Any, request_bytes: bytes) -> None:
    async def run() -> bytes:
        async with serving(application) as (_, port):
            return await exchange(port, request_bytes)

    answer = asyncio.run(run())
    assert statuses(answer) == [500]
    assert b"on purpose" not in answer


async def too_large(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


def test_a_client_may_half_close_within_a_rejected_body(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serving(too_large) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(PARTIAL)
            assert statuses(await asyncio.wait_for(reader.read(), 5)) == [413]
            writer.write_eof()
            await wait_until(lambda: not server.connections)
            writer.close()

    asyncio.run(run())
    assert not caplog.records


@pytest.mark.parametrize(
    "behind",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n",
    ],
)
def test_an_upgrade_offer_after_the_last_request_does_not_affect_its_response(behind: bytes) -> None:
    async def run() -> bytes:
        async with serving(too_large) as (_, port):
            return await exchange(port, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + behind)

    assert statuses(asyncio.run(run())) == [413]


@pytest.mark.parametrize("behind", [COMPLETE, PARTIAL, PARTIAL + b"x" * 5], ids=["whole", "partial", "partial-body"])
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_disconnect_is_reported_while_another_request_is_pipelined(behind: bytes, reset: bool) -> None:
    gone = asyncio.Event()
    entered: list[str] = []

    async def waiting(scope: Any, _receive: Any, _send: Any) -> None:
        entered.append(scope["method"])
        scope["extensions"]["llmariner.response"].add_disconnect_callback(gone.set)
        await gone.wait()

    async def run() -> None:
        async with serving(waiting, limits=ServerLimits(tick_seconds=0.05)) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + behind)
            await wait_until(lambda: entered)
            await asyncio.sleep(0.2)
            assert not gone.is_set()
            if reset:
                writer.transport.abort()
            else:
                writer.close()
            await asyncio.wait_for(gone.wait(), 5)
            await wait_until(lambda: not server.connections)

    asyncio.run(run())
    assert entered == ["GET"]


def test_a_malformed_body_after_its_response_gets_no_second_one() -> None:
    async def respond_and_continue(scope: Any, receive: Any, send: Any) -> None:
        await too_large(scope, receive, send)
        await asyncio.sleep(10)

    async def run() -> bytes:
        async with serving(respond_and_continue) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nno"), 5)
            writer.write(b"no chunk\r\n")
            answer += await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    assert statuses(asyncio.run(run())) == [413]


async def begin(_scope: Any, receive: Any, send: Any) -> None:
    """Begins a response, then reads the body."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


def test_no_100_continue_is_sent_within_a_response() -> None:
    async def run() -> bytes:
        async with serving(begin) as (_, port):
            request = PARTIAL[:-3].replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
            return await exchange(port, request, until_closed=False)

    assert statuses(asyncio.run(run())) == [200]
