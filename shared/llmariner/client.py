"""An HTTP/1.1 client as lean as the token path needs: asyncio and httptools, connections kept alive per origin.

A response is read chunk by chunk; a reader that is slow makes the sender wait (the socket is not read past a bound), so
memory stays flat however long a stream is. Closing a response before its end closes the connection: that is how a
caller's hang-up reaches an engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import cast
from urllib.parse import urlsplit

import httptools

__all__ = ["Client", "ConnectionFailed", "Headers", "Response", "ResponseBroken"]

Sink = Callable[[bytes], "asyncio.Future[None] | None"]
Headers = Iterable[tuple[bytes, bytes]]
_HIGH_WATER = 256 * 1024
_IDLE_KEPT = 128
_CONNECT_SECONDS = 5.0


class ConnectionFailed(Exception):
    """No byte of an answer came: nothing listens there, or it hung up. The request may be tried elsewhere."""


class ResponseBroken(Exception):
    """The answer began and broke off, or was no HTTP."""


class Response:
    """An answer on its way. `headers` have lower-case names. Read with `chunk` or `read`; always `close`."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: _Connection, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    async def chunk(self) -> bytes:
        """All bytes that are there, at least one; empty at the end. ResponseBroken when it breaks off."""
        return await self._connection.chunk()

    async def pipe(self, sink: Sink) -> None:
        """Call `sink` with what arrives, as it arrives, to the end. ResponseBroken when it breaks off.

        A token takes one pass of the event loop this way, where `chunk` takes two. A future returned by `sink` stops
        the reading until it is done.
        """
        await self._connection.pipe(sink)

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The rest of the body. ResponseBroken when it is over `limit` bytes."""
        parts, size = [], 0
        while part := await self.chunk():
            size += len(part)
            if size > limit:
                raise ResponseBroken(f"the answer is over {limit} bytes")
            parts.append(part)
        self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else close it. Idempotent."""
        self._connection.release()


class Client:
    """Connections to any number of origins. One per process and event loop."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[_Connection]] = {}

    async def request(
        self, origin: str, method: str, path: str, *, headers: Headers = (), body: bytes = b""
    ) -> Response:
        """Send a request to `http://host:port` and wait for the head of the answer. ConnectionFailed when none comes."""
        message = _message(origin, method, path, headers, body)
        while connection := self._kept(origin):
            try:
                return await connection.exchange(message)
            except ConnectionFailed:
                continue  # it was closed while idle: another, or a new one
        connection = await self._connect(origin)
        return await connection.exchange(message)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request to its origin."""
        kept = self._idle.setdefault(connection.origin, deque())
        if len(kept) < _IDLE_KEPT:
            kept.append(connection)
        else:
            connection.abort()

    def _kept(self, origin: str) -> _Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self, origin: str) -> _Connection:
        parts = urlsplit(origin)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, origin), parts.hostname or "", parts.port or 80
                )
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"{origin}: {error or 'timed out'}") from error
        return connection


def _message(origin: str, method: str, path: str, headers: Headers, body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {origin[7:]}\r\ncontent-length: {len(body)}\r\n".encode("latin-1")]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines += (b"\r\n", body)
    return b"".join(lines)


class _Connection(asyncio.Protocol):
    """One connection and the one exchange on it."""

    def __init__(self, client: Client, origin: str) -> None:
        self.origin = origin
        self.open = False
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._headed = False
        self._complete = False
        self._kept_alive = False
        self._busy = False
        self._paused = False
        self._sink: Sink | None = None
        self._failure: str | None = None

    async def exchange(self, message: bytes) -> Response:
        """Write the request, wait for the head of the answer."""
        self._begin()
        self._busy = True
        transport = self._transport
        assert transport is not None
        transport.write(message)
        try:
            while not self._headed:
                if self._failure is not None:
                    raise ConnectionFailed(f"{self.origin}: {self._failure}")
                await self._wait()
        except BaseException:
            self.abort()
            raise
        return Response(self, self._parser.get_status_code(), self._headers)

    async def chunk(self) -> bytes:
        """See `Response.chunk`."""
        while not self._chunks:
            if self._complete:
                return b""
            if self._failure is not None:
                raise ResponseBroken(f"{self.origin}: {self._failure}")
            await self._wait()
        self._resume()
        return self._taken()

    async def pipe(self, sink: Sink) -> None:
        """See `Response.pipe`."""
        self._sink = sink
        self._resume()
        self._drain_into(sink)
        while not self._complete:
            if self._failure is not None:
                raise ResponseBroken(f"{self.origin}: {self._failure}")
            await self._wait()

    def _taken(self) -> bytes:
        chunks = self._chunks
        self._chunks, self._size = [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _drain_into(self, sink: Sink) -> None:
        if self._chunks:
            drained = sink(self._taken())
            if drained is not None and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
                drained.add_done_callback(lambda _: self._resume())

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def release(self) -> None:
        """See `Response.close`."""
        if not self._busy:
            return
        self._busy = False
        if self._complete and self.open and self._kept_alive:
            self._client.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once; the other side sees a reset or an end."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._busy and not self._complete:
            self._failure = str(exc) if exc else "the connection was closed"
        self._wake()

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.abort()  # bytes nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._failure = f"not HTTP: {error}"
            self.abort()
        if self._sink is not None:
            self._drain_into(self._sink)
            if self._complete or self._failure is not None:
                self._wake()
            return
        if self._size > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        # An answer without a length ends with its connection.
        if self._busy and self._headed and not self._complete and not self._framed():
            self._complete = True

    def _framed(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._headed = True
        else:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
            # Only now: the parser forgets how the message was framed when this returns.
            self._kept_alive = bool(self._parser.should_keep_alive())
