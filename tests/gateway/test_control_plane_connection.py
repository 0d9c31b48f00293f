"""The client of the control function, while connections to it are refused."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from llmariner.errors import Unavailable
from llmariner.gateway.control_plane import http_client
from llmariner.gateway.control_plane.http_client import HttpControlPlane
from llmariner.settings import ControlPlaneSettings, Secret

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
