"""A minimal HTTP/1.1 client for the token path: asyncio and httptools, with a pool of idle connections per origin.

A response is read chunk by chunk, with back-pressure: past a high-water mark the socket is not read, so memory use does not
depend on the length of a stream. Closing a response before its end closes the connection; that is how a client's disconnect
reaches an engine.

Servers are not trusted: heads, chunk extensions and trailers are bounded, reads time out, and bytes after the end of a
response close the connection.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

import httptools

__all__ = [
    "Client",
    "ConnectionFailed",
    "Headers",
    "ReaderTimeout",
    "Response",
    "ResponseFailed",
    "ResponseTimeout",
    "ResponseTooLarge",
]

Sink = Callable[[bytes], "asyncio.Future[None] | None"]
Headers = Iterable[tuple[bytes, bytes]]
_HIGH_WATER = 256 * 1024
# Of a head with the 1xx responses before it, and of the framing between two parts of a body.
_MAX_FRAMING_BYTES = 64 * 1024
# A larger body is written separately, without copying it behind the head.
_LARGE_BODY = 64 * 1024
_MAX_IDLE = 128
# uvicorn, and so vLLM, closes a connection after 5 s without a request; a request sent at that moment would be lost.
_IDLE_SECONDS = 4.0
_CONNECT_SECONDS = 5.0
_UNIX = "unix:"
_READ_TIMEOUT_SECONDS = 300.0
_SWEEP_SECONDS = 0.5
# How long a server may take to end a response whose rest is discarded.
_END_SECONDS = 1.0


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

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: _Connection, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._connection = connection
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

    async def read(self, limit: int = 64 * 1024 * 1024, *, on_progress: Callable[[int], None] | None = None) -> bytes:
        """The rest of the body; always closes the response. ResponseTooLarge when it is over `limit` bytes.

        `on_progress` is called with the number of bytes read so far, and may raise.
        """
        parts, size = [], 0
        try:
            while part := await self.chunk():
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
        self._connection.release()


class Client:
    """A pool of connections to any number of origins. One per event loop.

    `write_timeout`: seconds that a sink may take to accept a chunk (see `Response.pipe`).
    """

    def __init__(self, *, write_timeout: float = math.inf) -> None:
        self.write_timeout = write_timeout
        self.busy: set[_Connection] = set()
        self._idle: dict[str, deque[_Connection]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def request(
        self,
        origin: str,
        method: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        read_timeout: float = _READ_TIMEOUT_SECONDS,
        idempotent: bool = False,
    ) -> Response:
        """Send a request to `http://host:port` or `unix:path` (a socket), and wait for the head of the response.

        Raises ConnectionFailed. The request is sent once; only a GET, or one that is marked `idempotent`, is sent again
        when an idle connection turns out to be closed. `read_timeout`: seconds that the server may send nothing, before
        its head (ResponseTimeout) or between two parts of its body (ResponseFailed).
        """
        head = _request_head(origin, method, path, headers, len(body))
        connection = self._take_idle(origin)
        if connection is not None:
            try:
                return await connection.send(head, body, read_timeout)
            except ResponseTimeout:
                raise
            except ConnectionFailed:
                if method != "GET" and not idempotent:
                    raise
        connection = await self._connect(origin)
        return await connection.send(head, body, read_timeout)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def return_to_pool(self, connection: _Connection) -> None:
        """Keep an idle connection for the next request to its origin."""
        idle = self._idle.setdefault(connection.origin, deque())
        if len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def track(self, connection: _Connection) -> None:
        """Check the timeouts of a connection until it leaves `busy`."""
        self.busy.add(connection)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Check the timeouts of busy connections, and close those that were idle for too long."""
        now = monotonic()
        for connection in list(self.busy):
            connection.check_timeouts(now)
        for origin, idle in list(self._idle.items()):
            while idle and not idle[0].is_usable(now):
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]
        more = bool(self.busy or self._idle)
        loop = asyncio.get_running_loop()
        self._sweep_timer = loop.call_later(_SWEEP_SECONDS, self._sweep) if more else None

    def _take_idle(self, origin: str) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable(monotonic()):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: str) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if origin.startswith(_UNIX):
                    path = origin.removeprefix(_UNIX)
                    _, connection = await loop.create_unix_connection(lambda: _Connection(self, origin), path)
                else:
                    parts = urlsplit(origin)
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self, origin), parts.hostname or "", parts.port or 80
                    )
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"{origin}: {error or 'timed out'}") from error
        return connection


def _request_head(origin: str, method: str, path: str, headers: Headers, length: int) -> bytes:
    host = "localhost" if origin.startswith(_UNIX) else origin[7:]
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n".encode("latin-1")]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _discard(_: bytes) -> None:
    """A sink that ignores its chunks."""


class _Connection(asyncio.Protocol):
    """One connection, and the one request that is in progress on it."""

    def __init__(self, client: Client, origin: str) -> None:
        self.origin = origin
        self.is_open = False
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._idle_since = 0.0
        # Each of these ends the connection, or has its initial value again when a request ends.
        self._error: Exception | None = None
        self._timed_out = False
        self._last_received_at = 0.0
        self._sink_blocked_at = math.inf
        self._reset(_READ_TIMEOUT_SECONDS)

    def _reset(self, read_timeout: float) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._head_complete = False
        self._complete = False
        self._keep_alive = False
        self._busy = False
        self._paused = False
        self._sink: Sink | None = None
        self._discarding_since = math.inf
        self._failure: str | None = None
        # Bytes since the last part of a body.
        self._framing_bytes = 0
        self._read_timeout = read_timeout
        self._received_since_check = True

    async def send(self, head: bytes, body: bytes, read_timeout: float) -> Response:
        """Write the request and wait for the head of the response."""
        self._reset(read_timeout)
        self._busy = True
        self._client.track(self)
        transport = self._transport
        assert transport is not None
        if len(body) > _LARGE_BODY:
            transport.writelines((head, body))
        else:
            transport.write(head + body)
        try:
            while not self._head_complete:
                if self._failure is not None:
                    kind = ResponseTimeout if self._timed_out else ConnectionFailed
                    raise kind(f"{self.origin}: {self._failure}")
                await self._wait()
        except BaseException:
            self._client.busy.discard(self)
            self.abort()
            raise
        return Response(self, self._parser.get_status_code(), self._headers)

    def is_usable(self, now: float) -> bool:
        """Whether an idle connection can take a request: it is open, and the server is not about to close it."""
        return self.is_open and now - self._idle_since < _IDLE_SECONDS

    def check_timeouts(self, now: float) -> None:
        """Fail the request when the server or the sink exceeded its timeout."""
        if now - self._sink_blocked_at > self._client.write_timeout:
            self._fail_locally(ReaderTimeout(f"the reader took nothing for {self._client.write_timeout:g} s"))
        if now - self._discarding_since > _END_SECONDS:
            self._abort_with("the server did not end its answer")
            self._wake()
        elif self._received_since_check or self._paused:
            self._received_since_check, self._last_received_at = False, now
        elif now - self._last_received_at > self._read_timeout and not self._complete:
            self._timed_out = True
            self._failure = f"the server sent nothing for {self._read_timeout:g} s"
            self.abort()
            self._wake()

    async def chunk(self) -> bytes:
        """See `Response.chunk`."""
        while not self._chunks:
            if self._body_ended():
                return b""
            await self._wait()
        self._resume()
        return self._take_chunks()

    async def pipe(self, sink: Sink) -> None:
        """See `Response.pipe`."""
        self._sink = sink
        self._resume()
        self._drain_into(sink)
        while self._error is None and not self._body_ended():
            await self._wait()
        if self._error is not None:
            raise self._error

    def discard_rest(self) -> None:
        """See `Response.discard_rest`."""
        self._sink = _discard
        self._discarding_since = monotonic()

    def _body_ended(self) -> bool:
        """Whether the body has ended. ResponseFailed when it broke off."""
        if self._failure is not None and not self._complete and self._discarding_since == math.inf:
            raise ResponseFailed(f"{self.origin}: {self._failure}")
        return self._complete or self._failure is not None

    def _take_chunks(self) -> bytes:
        chunks = self._chunks
        self._chunks, self._size = [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _drain_into(self, sink: Sink) -> None:
        if self._chunks:
            try:
                drained = sink(self._take_chunks())
            except Exception as error:  # raised again in `pipe`
                self._fail_locally(error)
                return
            if drained is not None and not self._paused and self._transport is not None:
                self._paused = True
                self._sink_blocked_at = monotonic()
                self._transport.pause_reading()
                drained.add_done_callback(self._on_sink_drained)

    def _on_sink_drained(self, _: asyncio.Future[None] | None = None) -> None:
        self._sink_blocked_at = math.inf
        self._resume()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _fail_locally(self, error: Exception) -> None:
        """Fail the request with an error that the server did not cause."""
        self._error = error
        self.abort()
        self._wake()

    def release(self) -> None:
        """See `Response.close`."""
        if not self._busy:
            return
        self._busy = False
        self._client.busy.discard(self)
        if self._complete and self.is_open and self._keep_alive and self._request_written():
            if self._paused:
                self._on_sink_drained()
            self._idle_since = monotonic()
            self._client.return_to_pool(self)
        else:
            self.abort()

    def _request_written(self) -> bool:
        """Whether the whole request was sent: a server that responds early may never read the rest, or the next request."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close immediately, without sending what is buffered."""
        self.is_open = False
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
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._busy and not self._complete and self._failure is None:
            self._failure = str(exc) if exc else "the connection was closed"
        self._wake()

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            self.abort()  # bytes outside of a response
            return
        self._received_since_check = True
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._abort_with("a change to another protocol, for which nobody asked")
        except httptools.HttpParserError as error:
            self._abort_with(f"not HTTP: {error}")
        if self._framing_bytes > _MAX_FRAMING_BYTES:
            self._abort_with(f"over {_MAX_FRAMING_BYTES} bytes of headers")
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
        self.is_open = False
        # A response without a length ends with its connection.
        if self._busy and self._head_complete and not self._complete and not self._has_framing_header():
            self._complete = True

    def _abort_with(self, failure: str) -> None:
        """Close after a protocol error; a response that is complete already stays valid."""
        if not self._complete:
            self._failure = failure
        self.abort()

    def _has_framing_header(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:  # otherwise it is a trailer, which is ignored
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._head_complete = True
        else:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)
        self._framing_bytes = 0

    def on_message_complete(self) -> None:
        if self._head_complete:
            self._complete = True
            self._framing_bytes = 0
            # The parser discards the framing of the message when this callback returns.
            self._keep_alive = bool(self._parser.should_keep_alive())
