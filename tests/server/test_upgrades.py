"""A request that changes the protocol of its connection, for an application that asks for it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llmariner.server import ServerLimits

from .conftest import serving, statuses, wait_until

UPGRADE = b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n"


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.lost += 1


class Application:
    """Upgrades each request after the client had time to send more."""

    def __init__(self) -> None:
        self.shutdowns = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        cycle = scope["extensions"]["llmariner.response"]
        if not cycle.upgrade([(b"upgrade", b"echo")], Echo(), self.on_shutdown):
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    def on_shutdown(self) -> None:
        self.shutdowns += 1


class StreamEcho:
    """As `Echo`, by a stream, whose reader the protocol refers to weakly."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        assert scope["extensions"]["llmariner.response"].upgrade([(b"upgrade", b"echo")], protocol, lambda: None)
        while data := await reader.read(100):
            protocol._transport.write(data)  # type: ignore[attr-defined]


def test_an_application_that_waits_for_bytes_of_its_connection_alone_is_not_collected() -> None:
    async def run() -> bytes:
        async with serving(StreamEcho()) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            gc.collect()
            writer.write(b"still there?")
            echo = await asyncio.wait_for(reader.readexactly(12), 5)
            writer.close()
            return echo

    assert asyncio.run(run()) == b"still there?"


def test_bytes_in_both_directions_are_the_applications_after_the_upgrade() -> None:
    application, before = Application(), Echo.lost

    async def run() -> bytes:
        async with serving(application, limits=ServerLimits(tick_seconds=0.05, idle_seconds=0.1)) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE + b"\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            for _ in range(4):  # beyond the timeouts of HTTP
                writer.write(b"GET / HTTP/1.1\r\n\r\n\xff")
                assert await asyncio.wait_for(reader.readexactly(19), 5) == b"GET / HTTP/1.1\r\n\r\n\xff"
                await asyncio.sleep(0.1)
            assert len(server.connections) == 1
            server.shut_down()
            await wait_until(lambda: application.shutdowns == 1)
            writer.close()
            await wait_until(lambda: not server.connections)
            return head

    head = asyncio.run(run())
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"connection: Upgrade\r\nupgrade: echo\r\n" in head
    assert Echo.lost == before + 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        UPGRADE + b"\r\n" + b"smuggled",
        UPGRADE + b"\r\n" + UPGRADE + b"\r\n",
        UPGRADE + b"content-length: 4\r\n\r\nbody",
        UPGRADE + b"content-length: 4\r\n\r\n",
        UPGRADE + b"transfer-encoding: chunked\r\n\r\n",
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"content-length: 4\r\n\r\nbody",
    ],
)
def test_bytes_behind_a_request_or_in_it_prevent_its_upgrade(request_bytes: bytes) -> None:
    async def run() -> bytes:
        async with serving(Application()) as (_, port):
            return await first_response(port, request_bytes)

    assert statuses(asyncio.run(run())) == [400]


async def first_response(port: int, request_bytes: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes)
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    finally:
        writer.close()
        await writer.wait_closed()


def test_an_upgraded_connection_counts_among_those_of_its_address() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with serving(Application(), limits=ServerLimits(connections_per_address=1)) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            refused = await first_response(port, UPGRADE + b"\r\n")
            writer.close()
            await wait_until(lambda: not server.connections_per_network)
            return refused, await first_response(port, UPGRADE + b"content-length: 1\r\n\r\n.")

    refused, accepted = asyncio.run(run())
    assert statuses(refused) == [429]
    assert statuses(accepted) == [400]
