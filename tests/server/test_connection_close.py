"""How connections end: responses to requests that were not read, and the server's shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import shutil
import subprocess
import threading
import time
import tracemalloc
from typing import Any

import pytest

from llmariner.server import ServerLimits

from .conftest import body_of, echo, exchange, hello, serving, statuses, wait_until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LARGE = 9 * 1024 * 1024


async def respond_without_reading(_scope: Any, _receive: Any, send: Any) -> None:
    """Responds without reading the body, as for an invalid key or an unknown path."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def run_in_thread(port: int, call: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, port)


def via_http_client(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/", body=b"x" * LARGE)
        return connection.getresponse().status
    finally:
        connection.close()


def via_node(port: int) -> int:
    program = f"""
        fetch('http://127.0.0.1:{port}/', {{method: 'POST', body: Buffer.alloc({LARGE})}})
          .then(answer => console.log(answer.status), error => console.log(error.cause?.code ?? error))"""
    return int(subprocess.run(["node", "-e", program], capture_output=True, timeout=60, check=True).stdout)


@pytest.mark.parametrize("by", [via_http_client, via_node])
def test_a_rejection_before_the_body_is_read_is_received(by: Any) -> None:
    if by is via_node and shutil.which("node") is None:
        pytest.skip("node is not installed")

    async def run() -> list[int]:
        async with serving(respond_without_reading) as (_, port):
            return [await run_in_thread(port, by) for _ in range(3)]

    assert asyncio.run(run()) == [413, 413, 413]


def test_an_early_response_announces_the_close() -> None:
    async def run() -> bytes:
        async with serving(respond_without_reading) as (_, port):
            return await exchange(port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")

    assert b"connection: close" in asyncio.run(run())


def test_a_rejected_head_gets_a_response_while_more_of_it_arrives() -> None:
    def flood(port: int) -> bytes:
        import socket

        with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 5_000_000)
            return caller.recv(100)

    async def run() -> bytes:
        async with serving(hello) as (_, port):
            return bytes(await run_in_thread(port, flood))

    assert asyncio.run(run()).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    ("limits", "part", "pause"),
    [
        (ServerLimits(linger_bytes=100_000, linger_quiet_seconds=60, linger_seconds=60), b"x" * 50_000, 0),
        (ServerLimits(linger_quiet_seconds=60, linger_seconds=0.5, tick_seconds=0.05), b"x", 0.02),
        (ServerLimits(linger_quiet_seconds=0.2, linger_seconds=60, tick_seconds=0.05), b"", 0.1),
    ],
    ids=["bytes", "time", "silence"],
)
def test_draining_after_the_last_response_is_bounded(limits: ServerLimits, part: bytes, pause: float) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n"

    async def sending(port: int, part: bytes, pause: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        try:
            while not writer.is_closing():
                writer.write(part)
                await asyncio.sleep(pause)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def run() -> None:
        async with serving(respond_without_reading, limits=limits) as (server, port):
            task = asyncio.create_task(sending(port, part, pause))
            await wait_until(lambda: server.connections)
            await wait_until(lambda: not server.connections)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_a_half_closed_client_receives_a_response_that_is_ready_soon() -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    assert statuses(asyncio.run(run())) == [200]


def test_a_half_closed_client_counts_as_disconnected_soon() -> None:
    gone = asyncio.Event()

    async def waiting(scope: Any, _receive: Any, _send: Any) -> None:
        scope["extensions"]["llmariner.response"].add_disconnect_callback(gone.set)
        await gone.wait()

    async def run() -> None:
        async with serving(waiting) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            writer.write_eof()
            await asyncio.wait_for(gone.wait(), 5)
            writer.close()

    asyncio.run(run())


def test_an_application_that_ignores_a_disconnect_blocks_no_other() -> None:
    entered = asyncio.Event()
    answered: list[bytes] = []
    gave_up: list[bool] = []

    async def ignore_disconnect(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/endless":
            await hello(scope, receive, send)
            return
        entered.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        end = time.monotonic() + 4
        while time.monotonic() < end and not answered:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        gave_up.append(not answered)

    async def run() -> bytes:
        async with serving(ignore_disconnect) as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(entered.wait(), 10)
            writer.transport.abort()
            await wait_until(lambda: not server.connections)
            answered.append(await exchange(port, CLOSE))
            await wait_until(lambda: gave_up)
            return answered[0]

    assert statuses(asyncio.run(run())) == [200]
    assert gave_up == [False]


def test_the_shutdown_is_announced_in_running_responses() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await go.wait()
        await hello(scope, receive, send)

    async def run() -> bytes:
        async with serving(slow) as (server, port):
            asked = asyncio.create_task(exchange(port, GET))
            await entered.wait()
            server.shut_down()
            go.set()
            return await asked

    answer = asyncio.run(run())
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


def test_requests_before_the_shutdown_get_responses_and_the_last_closes() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await go.wait()
        await hello(scope, receive, send)

    async def run() -> bytes:
        async with serving(slow) as (server, port):
            asked = asyncio.create_task(exchange(port, 3 * GET))
            await entered.wait()
            await asyncio.sleep(0.05)
            server.shut_down()
            go.set()
            return await asked

    answer = asyncio.run(run())
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b"connection: close") == 1
    assert b"connection: close" in answer.rpartition(b"HTTP/1.1 ")[2]


def test_the_shutdown_does_not_wait_for_a_stalled_client() -> None:
    entered = threading.Event()

    async def endless(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            entered.set()
            await asyncio.sleep(0)

    async def run() -> None:
        limits = ServerLimits(write_seconds=0.3, tick_seconds=0.05)
        async with asyncio.timeout(10), serving(endless, grace=60.0, limits=limits) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(GET)
            await wait_until(entered.is_set)
        writer.close()

    asyncio.run(run())


def test_a_request_whose_head_arrives_during_the_shutdown_gets_a_response() -> None:
    async def run() -> bytes:
        async with serving(hello) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET[:10])
            await asyncio.sleep(0.1)
            server.shut_down()
            writer.write(GET[10:])
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


async def violate_protocol(scope: Any, _receive: Any, send: Any) -> None:
    """Violates the ASGI protocol in the way that the path names."""
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
    whole = {"type": "http.response.body", "body": b"first"}
    if scope["path"] == "/second-answer":
        await send(head)
        await send(whole)
        await send({**head, "status": 500})
        await send(whole)
    elif scope["path"] == "/second-body":
        await send(head)
        await send(whole)
        await send(whole)
    elif scope["path"] == "/written-late":
        await send(head)
        await send(whole)
        scope["extensions"]["llmariner.response"].write(b"late")
    elif scope["path"] == "/too-long":
        await send(head)
        await send({"type": "http.response.body", "body": b"longer than five"})
    elif scope["path"] == "/too-short":
        await send(head)
        await send({"type": "http.response.body", "body": b"four"})
    else:
        await send({"type": "http.response.body", "body": b"no head"})


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (b"/second-answer", [200]),
        (b"/second-body", [200]),
        (b"/written-late", [200]),
        (b"/too-long", []),
        (b"/too-short", [200]),
        (b"/no-head", [500]),
    ],
)
def test_no_response_is_followed_by_bytes_for_another_request(
    path: bytes, seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> bytes:
        async with serving(violate_protocol) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path + GET)
            try:
                answer = await asyncio.wait_for(reader.read(), 5)
            except ConnectionError:
                answer = b""
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert statuses(answer) == seen
    if seen == [200] and path != b"/too-short":
        assert body_of(answer) == b"first"
    elif seen == [500]:
        assert json.loads(body_of(answer))["error"]["type"] == "server_error"
    assert path == b"/too-short" or "the application sent" in caplog.text


def test_no_second_head_is_sent_within_a_response(caplog: pytest.LogCaptureFixture) -> None:
    async def starting_twice(_scope: Any, _receive: Any, send: Any) -> None:
        for more in (True, False):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": more})

    async def run() -> bytes:
        async with serving(starting_twice) as (_, port):
            return await exchange(port, GET)

    assert asyncio.run(run()).count(b"HTTP/1.1") <= 1
    assert "a second head" in caplog.text


BREAKING_OFF = {
    "a rejected body": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n" + 200_000 * b"x",
    "fields of a head": b"GET / HTTP/1.1\r\nhost: x\r\n" + 50 * (b"x: " + 1000 * b"y" + b"\r\n"),
    "a field": b"GET / HTTP/1.1\r\nhost: x\r\nx: " + 50_000 * b"y",
    "a target": b"GET /" + 25_000 * b"y",
}


@pytest.mark.parametrize("sent", BREAKING_OFF.values(), ids=BREAKING_OFF)
def test_a_lost_connection_frees_what_was_received_of_its_request(sent: bytes) -> None:
    """Before the garbage collector runs: it is rare where requests make no garbage for it."""

    async def run() -> int:
        async with serving(respond_without_reading) as (server, port):
            await exchange(port, CLOSE)
            await wait_until(lambda: not server.connections)
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                await writer.drain()
                await asyncio.sleep(0.005)
                writer.transport.abort()
                await wait_until(lambda: not server.connections)
            return tracemalloc.get_traced_memory()[0] - before

    gc.disable()
    tracemalloc.start()
    try:
        assert asyncio.run(run()) < 300_000
    finally:
        tracemalloc.stop()
        gc.enable()


def test_idle_connections_keep_no_target_of_their_last_requests() -> None:
    async def run() -> int:
        async with serving(hello) as (_, port):
            await exchange(port, CLOSE)
            before, opened = tracemalloc.get_traced_memory()[0], []
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /" + 50_000 * b"y" + b" HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
                opened.append((reader, writer))
            await asyncio.sleep(0.01)
            kept = tracemalloc.get_traced_memory()[0] - before
            for _, writer in opened:
                writer.close()
            return kept

    tracemalloc.start()
    try:
        assert asyncio.run(run()) < 500_000
    finally:
        tracemalloc.stop()
