"""Timeouts: slow heads, slow bodies, clients that do not read, connections without a request."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from llmariner.server import ServerLimits
from llmariner.server.connection import Connection

from .conftest import count_body, hello, serving, statuses, wait_until

pytestmark = pytest.mark.quiet

SHORT_TIMEOUTS = ServerLimits(
    head_seconds=0.2,
    idle_seconds=0.6,
    body_seconds=0.3,
    body_bytes=240,
    write_seconds=0.4,
    linger_quiet_seconds=0.2,
    linger_seconds=0.6,
    tick_seconds=0.05,
)
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def endless(_scope: Any, receive: Any, send: Any) -> None:
    """Streams until the connection closes."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


async def send_slowly(port: int, first: bytes, drip: bytes, pause: float) -> bytes:
    """Send bytes, then a few more repeatedly until the server responds; returns its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    answer = asyncio.create_task(reader.read())
    async with asyncio.timeout(10):
        while not answer.done():
            if not writer.is_closing():
                writer.write(drip)
            await asyncio.sleep(pause)
        writer.close()
        try:
            return await answer
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    ("first", "drip", "status"),
    [
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n", 408),
        (POST, b"x", 408),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a", 408),
    ],
    ids=["a slow head", "a slow body", "a slow chunk extension"],
)
def test_slow_input_times_out(first: bytes, drip: bytes, status: int) -> None:
    async def run() -> bytes:
        async with serving(count_body, limits=SHORT_TIMEOUTS) as (_, port):
            return await send_slowly(port, first, drip, 0.02)

    assert statuses(asyncio.run(run())) == [status]


def test_a_body_that_makes_progress_may_take_long() -> None:
    async def run() -> bytes:
        async with serving(count_body, limits=SHORT_TIMEOUTS) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST)
            for _ in range(100):
                writer.write(b"x" * 1000)
                await asyncio.sleep(0.01)
            answer = await asyncio.wait_for(reader.readuntil(b"100000\r\n"), 5)
            writer.close()
            return answer

    assert statuses(asyncio.run(run())) == [200]


def test_a_body_that_the_application_does_not_read_does_not_time_out() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.8)
        await count_body(scope, receive, send)

    async def run() -> bytes:
        async with serving(late, limits=SHORT_TIMEOUTS) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            answer = await asyncio.wait_for(reader.readuntil(b"3000000\r\n"), 5)
            writer.close()
            return answer

    assert statuses(asyncio.run(run())) == [200]


def test_a_client_that_waits_for_100_continue_does_not_time_out() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6)
        await count_body(scope, receive, send)

    async def run() -> bytes:
        async with serving(late, limits=SHORT_TIMEOUTS) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
            leave = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            writer.write(b"x")
            answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
            writer.close()
            return leave + answer

    assert statuses(asyncio.run(run())) == [100, 200]


def test_a_head_on_a_reused_connection_is_timed_from_its_first_byte() -> None:
    async def run() -> bytes:
        async with serving(hello, limits=SHORT_TIMEOUTS) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.4)  # idle for longer than the timeout of a head
            writer.write(GET[:20])
            await asyncio.sleep(0.1)
            writer.write(GET[20:])
            answer = await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            writer.close()
            return answer

    assert statuses(asyncio.run(run())) == [200]


def test_a_connection_without_a_request_is_closed_silently() -> None:
    async def run() -> bytes:
        async with serving(hello, limits=SHORT_TIMEOUTS) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    assert asyncio.run(run()) == b""


def test_idle_connections_outlive_a_proxys_keep_alive() -> None:
    assert ServerLimits().idle_seconds >= 100  # Go's transport: 90 s
    assert ServerLimits.load({}).idle_seconds == ServerLimits().idle_seconds


def test_a_stalled_reader_loses_its_connection() -> None:
    ended = asyncio.Event()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["llmariner.response"].add_disconnect_callback(ended.set)
        await endless(scope, receive, send)

    async def run() -> None:
        async with serving(watched, limits=SHORT_TIMEOUTS, grace=0.0) as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as caller:
                caller.sendall(GET)
                await wait_until(lambda: ended.is_set() and not server.connections)

    asyncio.run(run())


def test_a_stalled_reader_of_the_last_response_loses_its_connection() -> None:
    """No task waits for the write any more, so only the connection itself can detect this."""

    async def large(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000000")]})
        await send({"type": "http.response.body", "body": b"x" * 20_000_000})

    async def run() -> None:
        async with serving(large, limits=SHORT_TIMEOUTS, grace=0.0) as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as caller:
                caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                await wait_until(lambda: server.connections)
                await wait_until(lambda: not server.connections)

    asyncio.run(run())


def test_a_slow_reader_keeps_its_stream() -> None:
    async def run() -> int:
        async with serving(endless, limits=SHORT_TIMEOUTS, grace=0.0) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            got = 0
            for _ in range(60):
                got += len(await reader.read(200_000))
                await asyncio.sleep(0.02)
            writer.transport.abort()
            return got

    assert asyncio.run(run()) > 1_000_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize(("seconds", "probe"), [(1, 1), (60, 15)])
def test_the_kernel_closes_connections_without_acknowledgments(seconds: int, probe: int) -> None:
    options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)

    async def run() -> list[int]:
        async with serving(hello, limits=ServerLimits(write_seconds=seconds)) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await wait_until(lambda: server.connections)
            accepted = next(iter(server.connections))
            assert isinstance(accepted, Connection)
            connection = accepted.transport.get_extra_info("socket")
            found = [connection.getsockopt(socket.IPPROTO_TCP, each) for each in options]
            writer.close()
            # Without keepalive a client that waits for its response is never probed.
            return [connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *found]

    assert asyncio.run(run()) == [1, 1000 * seconds, probe, probe]


def test_a_connection_that_fails_during_setup_releases_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Connection.check_timeouts
    failed: list[Connection] = []

    def fail_once(connection: Connection) -> None:
        if not failed:
            failed.append(connection)
            raise ValueError("on purpose")
        check(connection)

    async def run() -> None:
        async with serving(hello, limits=ServerLimits(tick_seconds=0.05, idle_seconds=0.1)) as (server, port):
            monkeypatch.setattr(Connection, "check_timeouts", fail_once)
            writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(3)]
            await wait_until(lambda: failed)
            await wait_until(lambda: not server.connections)
            for writer in writers:
                writer.close()

    asyncio.run(run())
