"""An HTTP/1.1 client as lean as the token path needs: asyncio and httptools, connections kept alive per origin.

A response is read chunk by chunk; a reader that is slow makes the sender wait (the socket is not read past a bound), so
memory stays flat however long a stream is. Closing a response before its end closes the connection: that is how a
caller's hang-up reaches an engine.

Servers are not trusted: head, chunk extensions and trailers are bounded, silence has a limit, and whatever a server sends
beyond its one answer closes the connection.
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
    "ReaderStalled",
    "Response",
    "ResponseBroken",
    "ResponseOverdue",
    "ResponseTooLarge",
]

Sink = Callable[[bytes], "asyncio.Future[None] | None"]
Headers = Iterable[tuple[bytes, bytes]]
_HIGH_WATER = 256 * 1024
# Of a head with everything before it (1xx answers), and of what may stand between two parts of a body.
_FRAMING_LIMIT = 64 * 1024
# A larger body is written beside the head, not copied behind it.
_LARGE_BODY = 64 * 1024
_IDLE_KEPT = 128
# uvicorn, and so vLLM, closes a connection that was idle for 5 s: one used just then would lose its request.
_IDLE_SECONDS = 4.0
_CONNECT_SECONDS = 5.0
_UNIX = "unix:"
_SILENCE_SECONDS = 300.0
_SWEEP_SECONDS = 0.5
# How long a server may take to end an answer of which all that matters has come.
_END_SECONDS = 1.0


class ConnectionFailed(Exception):
    """No byte of an answer came: nothing listens there, or it hung up. The request may be tried elsewhere."""


class ResponseOverdue(ConnectionFailed):
    """The server took the request and sent nothing for the allowed time."""


class ResponseBroken(Exception):
    """The answer began and broke off, fell silent, or was no HTTP."""


class ResponseTooLarge(ResponseBroken):
    """More came than whoever reads takes."""


class ReaderStalled(Exception):
    """A sink did not take what it was given within the allowed time."""


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
        the reading until it is done; ReaderStalled when that takes longer than the client's `write_timeout`. What `sink`
        raises ends the response and is raised here.
        """
        await self._connection.pipe(sink)

    async def read(self, limit: int = 64 * 1024 * 1024, *, held: Callable[[int], None] | None = None) -> bytes:
        """The rest of the body; closes the response, however it ends. ResponseTooLarge when it is over `limit` bytes.

        `held` is told how many bytes there are so far, and may raise.
        """
        parts, size = [], 0
        try:
            while part := await self.chunk():
                size += len(part)
                if size > limit:
                    raise ResponseTooLarge(f"the answer is over {limit} bytes")
                if held is not None:
                    held(size)
                parts.append(part)
        finally:
            self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def conclude(self) -> None:
        """All that matters has come: drop what follows. `pipe` and `chunk` end with the body, or within two seconds."""
        self._connection.conclude()

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else close it. Idempotent."""
        self._connection.release()


class Client:
    """Connections to any number of origins. One per process and event loop.

    `write_timeout`: seconds that a sink may take to accept what it was given (see `Response.pipe`).
    """

    def __init__(self, *, write_timeout: float = math.inf) -> None:
        self.write_timeout = write_timeout
        self.busy: set[_Connection] = set()
        self._idle: dict[str, deque[_Connection]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    async def request(
        self,
        origin: str,
        method: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        silence: float = _SILENCE_SECONDS,
        idempotent: bool = False,
    ) -> Response:
        """Send a request to `http://host:port` or `unix:path`, a socket's, and wait for the head of the answer.

        ConnectionFailed when none comes.

        It is sent once. Only a GET, or what its caller calls `idempotent`, is sent once more when a kept connection turns
        out to be closed. `silence`: seconds that the server may send nothing, before its head (ResponseOverdue) or between
        two parts of its body (ResponseBroken).
        """
        head = _head(origin, method, path, headers, len(body))
        connection = self._kept(origin)
        if connection is not None:
            try:
                return await connection.exchange(head, body, silence)
            except ResponseOverdue:
                raise
            except ConnectionFailed:
                if method != "GET" and not idempotent:
                    raise
        connection = await self._connect(origin)
        return await connection.exchange(head, body, silence)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request to its origin."""
        kept = self._idle.setdefault(connection.origin, deque())
        if len(kept) < _IDLE_KEPT:
            kept.append(connection)
        else:
            connection.abort()

    def watch(self, connection: _Connection) -> None:
        """Look after a connection that is in use."""
        self.busy.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long, and forget origins that nobody asks any more; see to those in use."""
        now = monotonic()
        for connection in list(self.busy):
            connection.check_time(now)
        for origin, kept in list(self._idle.items()):
            while kept and not kept[0].usable(now):
                kept.popleft().abort()
            if not kept:
                del self._idle[origin]
        again = bool(self.busy or self._idle)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep) if again else None

    def _kept(self, origin: str) -> _Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.usable(monotonic()):
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


def _head(origin: str, method: str, path: str, headers: Headers, length: int) -> bytes:
    host = "localhost" if origin.startswith(_UNIX) else origin[7:]
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n".encode("latin-1")]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _drop(_: bytes) -> None:
    """A sink for what nobody wants."""


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
        self._idle_since = 0.0
        # These end the connection, or are as they were when an exchange ends.
        self._error: Exception | None = None
        self._overdue = False
        self._heard_at = 0.0
        self._withheld_at = math.inf
        self._begin(_SILENCE_SECONDS)

    def _begin(self, silence: float) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._headed = False
        self._complete = False
        self._kept_alive = False
        self._busy = False
        self._paused = False
        self._sink: Sink | None = None
        self._concluded_at = math.inf
        self._failure: str | None = None
        # Bytes since the last part of a body.
        self._framing = 0
        self._silence = silence
        self._heard = True

    async def exchange(self, head: bytes, body: bytes, silence: float) -> Response:
        """Write the request, wait for the head of the answer."""
        self._begin(silence)
        self._busy = True
        self._client.watch(self)
        transport = self._transport
        assert transport is not None
        if len(body) > _LARGE_BODY:
            transport.writelines((head, body))
        else:
            transport.write(head + body)
        try:
            while not self._headed:
                if self._failure is not None:
                    kind = ResponseOverdue if self._overdue else ConnectionFailed
                    raise kind(f"{self.origin}: {self._failure}")
                await self._wait()
        except BaseException:
            self._client.busy.discard(self)
            self.abort()
            raise
        return Response(self, self._parser.get_status_code(), self._headers)

    def usable(self, now: float) -> bool:
        """Whether an idle connection may take a request: neither closed nor about to be."""
        return self.open and now - self._idle_since < _IDLE_SECONDS

    def check_time(self, now: float) -> None:
        """Fail the exchange when the server was silent, or the sink withheld its answer, for too long."""
        if now - self._withheld_at > self._client.write_timeout:
            self._fail(ReaderStalled(f"the reader took nothing for {self._client.write_timeout:g} s"))
        if now - self._concluded_at > _END_SECONDS:
            self._break("the server did not end its answer")
            self._wake()
        elif self._heard or self._paused:
            self._heard, self._heard_at = False, now
        elif now - self._heard_at > self._silence and not self._complete:
            self._overdue = True
            self._failure = f"the server sent nothing for {self._silence:g} s"
            self.abort()
            self._wake()

    async def chunk(self) -> bytes:
        """See `Response.chunk`."""
        while not self._chunks:
            if self._over():
                return b""
            await self._wait()
        self._resume()
        return self._taken()

    async def pipe(self, sink: Sink) -> None:
        """See `Response.pipe`."""
        self._sink = sink
        self._resume()
        self._drain_into(sink)
        while self._error is None and not self._over():
            await self._wait()
        if self._error is not None:
            raise self._error

    def conclude(self) -> None:
        """See `Response.conclude`."""
        self._sink = _drop
        self._concluded_at = monotonic()

    def _over(self) -> bool:
        """Whether nothing more comes of the body. ResponseBroken when it broke off."""
        if self._failure is not None and not self._complete and self._concluded_at == math.inf:
            raise ResponseBroken(f"{self.origin}: {self._failure}")
        return self._complete or self._failure is not None

    def _taken(self) -> bytes:
        chunks = self._chunks
        self._chunks, self._size = [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _drain_into(self, sink: Sink) -> None:
        if self._chunks:
            try:
                drained = sink(self._taken())
            except Exception as error:  # the sink's own, for whoever waits in `pipe`
                self._fail(error)
                return
            if drained is not None and not self._paused and self._transport is not None:
                self._paused = True
                self._withheld_at = monotonic()
                self._transport.pause_reading()
                drained.add_done_callback(self._accepted)

    def _accepted(self, _: asyncio.Future[None] | None = None) -> None:
        self._withheld_at = math.inf
        self._resume()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        """End the exchange with an error that is not the server's."""
        self._error = error
        self.abort()
        self._wake()

    def release(self) -> None:
        """See `Response.close`."""
        if not self._busy:
            return
        self._busy = False
        self._client.busy.discard(self)
        if self._complete and self.open and self._kept_alive and self._written():
            if self._paused:
                self._accepted()
            self._idle_since = monotonic()
            self._client.keep(self)
        else:
            self.abort()

    def _written(self) -> bool:
        """Whether the server took the whole request: one that answers early may never read the rest, or what follows."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

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
        if self._busy and not self._complete and self._failure is None:
            self._failure = str(exc) if exc else "the connection was closed"
        self._wake()

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            self.abort()  # bytes nobody asked for
            return
        self._heard = True
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("a change to another protocol, for which nobody asked")
        except httptools.HttpParserError as error:
            self._break(f"not HTTP: {error}")
        if self._framing > _FRAMING_LIMIT:
            self._break(f"over {_FRAMING_LIMIT} bytes of headers")
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
        self.open = False
        # An answer without a length ends with its connection.
        if self._busy and self._headed and not self._complete and not self._framed():
            self._complete = True

    def _break(self, failure: str) -> None:
        """The server's words can't be followed any more; an answer that is whole already stays good."""
        if not self._complete:
            self._failure = failure
        self.abort()

    def _framed(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else it is a trailer, which nobody reads
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._headed = True
        else:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)
        self._framing = 0

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
            self._framing = 0
            # Only now: the parser forgets how the message was framed when this returns.
            self._kept_alive = bool(self._parser.should_keep_alive())
