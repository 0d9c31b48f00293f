"""Two ends of a connection of the tunnel, over a real socket and real websocket frames."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.protocol import Protocol, Side, State

from llmariner.platform.tunnel import Http2Connection, Stream, TunnelLimits
from llmariner.platform.tunnel.http2 import Handler
from llmariner.platform.tunnel.websocket import AcceptedWebsocket

__all__ = ["GET", "connected", "post", "websockets"]

DEFAULT = TunnelLimits()
GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"kubernetes"), (b":path", b"/api/v1/pods")]


def post(path: bytes = b"/") -> list[tuple[bytes, bytes]]:
    return [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"kubernetes"), (b":path", path)]


async def websockets(limits: TunnelLimits) -> tuple[Connection, Connection]:
    """The control plane's end and the agent's."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, accepted = await loop.create_connection(lambda: AcceptedWebsocket(limits), sock=ours)
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=2 * limits.message_bytes)
    _, opened = await loop.create_connection(
        lambda: Connection(client, ping_interval=None, max_queue=4, write_limit=limits.message_bytes), sock=theirs
    )
    return accepted, opened


@contextlib.asynccontextmanager
async def connected(handler: Handler, limits: TunnelLimits = DEFAULT) -> AsyncIterator[tuple[Any, Any]]:
    """The client (the control plane) and the server (the agent) of a connection that runs."""
    accepted, opened = await websockets(limits)
    client, server = Http2Connection(accepted, limits=limits), Http2Connection(opened, handler=handler, limits=limits)
    tasks = [asyncio.create_task(each.run()) for each in (client, server)]
    try:
        yield client, server
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_all(stream: Stream) -> bytes:
    parts = []
    while part := await stream.read():
        parts.append(part)
    return b"".join(parts)
