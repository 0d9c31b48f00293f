"""The client of the control function, while connections to it are refused, or something else answers."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmariner.errors import Unavailable
from llmariner.gateway.control_plane import http_client
from llmariner.gateway.control_plane.http_client import HttpControlPlane
from llmariner.gateway.control_plane.port import Key, LeaseRequest
from llmariner.gateway.metering.meter import Meter
from llmariner.gateway.metering.metrics import Metrics
from llmariner.settings import ControlPlaneSettings, Secret

from .running_platform import soon

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)
RESPONSE = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"key":null}'


@pytest.fixture
def address() -> tuple[str, int]:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    return host, port


def control_plane(address: tuple[str, int]) -> HttpControlPlane:
    settings = ControlPlaneSettings(url=f"http://{address[0]}:{address[1]}")
    return HttpControlPlane(settings, Secret("s" * 64), issuer="function")


async def listen_later(address: tuple[str, int], requests: list[bytes]) -> asyncio.Server:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(RESPONSE)
        await writer.drain()
        writer.close()

    await asyncio.sleep(0.3)
    return await asyncio.start_server(respond, *address)


def test_an_operation_waits_until_connections_are_accepted(address: tuple[str, int]) -> None:
    requests: list[bytes] = []

    async def ask() -> None:
        server = asyncio.create_task(listen_later(address, requests))
        assert await control_plane(address).authenticate_key("digest", None, None) is None
        (await server).close()

    asyncio.run(ask())
    assert len(requests) == 1
    assert requests[0].startswith(b"POST /internal/gateway/key ")


def test_an_operation_fails_while_connections_are_refused(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_RECONNECT_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(control_plane(address).authenticate_key("digest", None, None))
    assert time.monotonic() - began >= 0.2


def test_the_log_tells_that_no_answer_came_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_client, "_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(control_plane(server.getsockname()).authenticate_key("digest", None, None))
    assert "to key: its time was over" in caplog.text


@asynccontextmanager
async def something_else(said: list[bytes]) -> AsyncIterator[HttpControlPlane]:
    """A client of a server that answers each request with status 200 and the only item of `said`."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said[0]), said[0]))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        yield control_plane(server.sockets[0].getsockname())


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"key":', b"[]", b"{}", b'{"key":5,"model":[],"grants":{"a":1},"keys":null}']
)
def test_a_response_of_something_else_is_as_none(body: bytes) -> None:
    async def scenario() -> None:
        async with something_else([body]) as plane:
            for operation in (
                plane.authenticate_key("digest", None, None),
                plane.model_state("m"),
                plane.changes_since("", 0),
                plane.lease(LeaseRequest("instance", 0.0, [])),
            ):
                with pytest.raises(Unavailable, match="Something else answers"):
                    await operation

    asyncio.run(scenario())


def test_usage_is_not_dropped_where_something_else_takes_it() -> None:
    async def scenario() -> None:
        said, metrics = [b"<html>"], Metrics()
        async with something_else(said) as plane:
            meter = Meter(plane, metrics)
            meter.close(meter.open("req_1", KEY, "m", "chat_completions"), "succeeded", 200)
            flushed = asyncio.create_task(meter.flush())
            await soon(lambda: meter._sending)
            await asyncio.gather(*meter._sending)
            assert len(meter._events) == 1
            said[0] = b"{}"
            await flushed
            assert (meter._events, metrics.rejected_events) == ([], 0)

    asyncio.run(scenario())
