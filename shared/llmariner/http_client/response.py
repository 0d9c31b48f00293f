"""A response of a server, and what can go wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llmariner.http_client.client import Client
    from llmariner.http_client.connection import Connection

__all__ = [
    "ConnectionFailed",
    "Headers",
    "ReaderTimeout",
    "Response",
    "ResponseFailed",
    "ResponseTimeout",
    "ResponseTooLarge",
    "Sink",
    "Tunnel",
]

Sink = Callable[[bytes], "asyncio.Future[None] | None"]
Headers = Iterable[tuple[bytes, bytes]]


class ConnectionFailed(Exception):
    """No response head arrived: the connection was refused or closed. The request may be retried elsewhere."""


class ResponseTimeout(ConnectionFailed):
    """The server accepted the request and sent nothing within the read timeout."""


class ResponseFailed(Exception):
    """The response began, and then broke off, timed out, or was not valid HTTP."""


class ResponseTooLarge(ResponseFailed):
    """The response is larger than its reader accepts."""


class ReaderTimeout(Exception):
    """A sink did not accept a chunk within the client's `write_timeout`."""


class Response:
    """A response whose head has arrived; header names are in lower case. Read it, and always `close` it."""

    __slots__ = ("_closed", "_connection", "headers", "status")

    def __init__(self, connection: Connection, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._connection = connection
        self._closed = False
        self.status = status
        self.headers = headers

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header with this lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    async def chunk(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end. Raises ResponseFailed."""
        return await self._connection.chunk()

    async def pipe(self, sink: Sink) -> None:
        """Call `sink` with each chunk as it arrives, until the end. Raises ResponseFailed.

        A token takes one pass of the event loop this way, where `chunk` takes two. A future returned by `sink` pauses
        reading until it is done; ReaderTimeout when that takes longer than the client's `write_timeout`. An exception of
        `sink` ends the response and is raised here.
        """
        await self._connection.pipe(sink)

    def whole(self) -> bytes | None:
        """The rest of the body if all of it has arrived, without a coroutine; closes the response then. None: `read` it."""
        body = self._connection.take_whole()
        if body is not None:
            self.close()
        return body

    async def read(self, limit: int = 64 * 1024 * 1024, *, on_progress: Callable[[int], None] | None = None) -> bytes:
        """The rest of the body; always closes the response. ResponseTooLarge when it is over `limit` bytes.

        `on_progress` is called with the number of bytes read so far, and may raise.
        """
        connection = self._connection
        if (whole := self.whole()) is not None:
            if len(whole) > limit:
                raise ResponseTooLarge(f"the answer is over {limit} bytes")
            if on_progress is not None:
                on_progress(len(whole))
            return whole
        parts, size = [], 0
        try:
            while part := await connection.chunk():
                size += len(part)
                if size > limit:
                    raise ResponseTooLarge(f"the answer is over {limit} bytes")
                if on_progress is not None:
                    on_progress(size)
                parts.append(part)
        finally:
            self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def discard_rest(self) -> None:
        """Discard the rest of the body. `pipe` and `chunk` end with the body, or within two seconds."""
        self._connection.discard_rest()

    def close(self) -> None:
        """Return the connection to the pool when the response was read to its end, else close it. Idempotent."""
        # A second call, after a wait for the client, would end another request that has the connection by then.
        if not self._closed:
            self._closed = True
            self._connection.release()


class Tunnel(Protocol):
    """The way to engines of other clusters."""

    async def request(
        self,
        client: Client,
        origin: str,
        method: str,
        path: str,
        *,
        headers: Headers,
        body: bytes,
        read_timeout: float,
        idempotent: bool,
    ) -> Response:
        """As `Client.request`, for an origin `tunnel:…`, by `http://` requests of the client."""
