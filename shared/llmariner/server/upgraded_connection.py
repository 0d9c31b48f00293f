"""A connection that changed its protocol (RFC 9110, 7.8): its bytes go to the application's protocol from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmariner.server.connection import Connection
    from llmariner.server.server import Server

__all__ = ["UpgradedConnection"]


class UpgradedConnection(asyncio.Protocol):
    """Takes the place of `replaced` at its transport and in the server's set of connections.

    The timeouts of HTTP no longer apply: the application's protocol has its own. `on_shutdown` is called when the server
    begins to shut down; the server closes the connection when its grace period ends.
    """

    def __init__(
        self, server: Server, replaced: Connection, protocol: asyncio.Protocol, on_shutdown: Callable[[], None]
    ) -> None:
        self._server = server
        self._replaced = replaced
        self._protocol = protocol
        self._on_shutdown = on_shutdown
        self._transport = replaced.transport
        # The event loop refers to tasks weakly: one that waits for bytes of this connection alone would be collected.
        self._task = asyncio.current_task()
        self.data_received = protocol.data_received  # type: ignore[method-assign]  # without a call in between
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        server.connections.add(self)
        server.connections.discard(replaced)
        self._transport.set_protocol(self)
        protocol.connection_made(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._replaced.connection_lost(exc)
        self._protocol.connection_lost(exc)

    # --- called by the server, as those of a `Connection` ---

    def close_if_idle(self) -> None:
        """The server shuts down."""
        self._on_shutdown()

    def check_timeouts(self) -> None:
        """The application's protocol has timeouts of its own."""

    def abort(self) -> None:
        """Close immediately."""
        self._transport.abort()
