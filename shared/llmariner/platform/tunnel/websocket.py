"""The websocket under a connection of the tunnel: opened by an agent, or accepted by the platform's server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Mapping
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.protocol import Protocol, Side, State

from llmariner.platform.tunnel.limits import TunnelLimits

__all__ = ["AcceptedWebsocket", "accept_value", "open_websocket"]

# RFC 6455, 4.2.2.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Messages that were received and not taken: with their size, this bounds what a connection holds.
_QUEUED_MESSAGES = 4
_OPEN_SECONDS = 20.0
_CLOSE_SECONDS = 2.0


class AcceptedWebsocket(Connection):
    """The server's side of a websocket after its handshake, as an asyncio protocol for the connection's transport."""

    def __init__(self, limits: TunnelLimits) -> None:
        super().__init__(
            Protocol(Side.SERVER, state=State.OPEN, max_size=2 * limits.message_bytes),
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.ping_seconds,
            close_timeout=_CLOSE_SECONDS,
            max_queue=_QUEUED_MESSAGES,
            write_limit=limits.message_bytes,
        )
        self._most_unsent = limits.unsent_control_bytes + 2 * limits.message_bytes

    def data_received(self, data: bytes) -> None:
        """As a websocket's, for another side that may send pings and not read the answers."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > self._most_unsent:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.start_keepalive()


class _WithoutRedirects(connect):
    """Follows no redirect: the key of a cluster goes to the address that its operator wrote down, and to no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_websocket(
    url: str,
    headers: Mapping[str, str],
    limits: TunnelLimits,
    *,
    tls: ssl.SSLContext | None = None,
    proxy: Literal[True] | None = True,
) -> ClientConnection:
    """Open a websocket at `ws://` or `wss://…`. `proxy` True: through the one that `HTTPS_PROXY` names, if it is set.

    Raises OSError, TimeoutError, or websockets' exceptions; InvalidStatus holds the refusal's response.
    """
    more: dict[str, Any] = {} if tls is None else {"ssl": tls}
    return await _WithoutRedirects(
        url,
        additional_headers=dict(headers),
        compression=None,
        proxy=proxy,
        max_size=2 * limits.message_bytes,
        max_queue=_QUEUED_MESSAGES,
        write_limit=limits.message_bytes,
        ping_interval=limits.ping_seconds,
        ping_timeout=limits.ping_seconds,
        open_timeout=_OPEN_SECONDS,
        close_timeout=_CLOSE_SECONDS,
        **more,
    )


def accept_value(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
