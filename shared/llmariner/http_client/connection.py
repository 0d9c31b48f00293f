"""One connection to a server: parsing, back-pressure, and the bounds on what a server may send."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httptools

from llmariner.http_client.response import (
    ConnectionFailed,
    ReaderTimeout,
    Response,
    ResponseFailed,
    ResponseTimeout,
    Sink,
)

if TYPE_CHECKING:
    from llmariner.http_client.client import Client

__all__ = ["READ_TIMEOUT_SECONDS", "Connection"]

_HIGH_WATER = 256 * 1024
# Of a head with the 1xx responses before it, and of the framing between two parts of a body.
_MAX_FRAMING_BYTES = 64 * 1024
# A larger body is written separately, without copying it behind the head.
_LARGE_BODY = 64 * 1024
# uvicorn, and so vLLM, closes a connection after 5 s without a request; a request sent at that moment would be lost.
_IDLE_SECONDS = 4.0
READ_TIMEOUT_SECONDS = 300.0
# How long a server may take to end a response whose rest is discarded.
_END_SECONDS = 1.0


def _discard(_: bytes) -> None:
    """A sink that ignores its chunks."""


class Connection(asyncio.Protocol):
    """One connection, and the one request that is in progress on it."""

    def __init__(self, client: Client, origin: str) -> None:
        self.origin = origin
        self.is_open = False
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._idle_since = 0.0
        # Each of these ends the connection, or has its initial value again when a request ends.
        self._failure: str | None = None
        self._busy = self._paused = self._keep_alive = False
        self._error: Exception | None = None
        self._timed_out = False
        self._last_received_at = 0.0
        self._sink_blocked_at = math.inf
        self._sink: Sink | None = None
        self._discarding_since = math.inf
        self._reset(READ_TIMEOUT_SECONDS)

    def _reset(self, read_timeout: float) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        # Bytes since the last part of a body.
        self._framing_bytes = 0
        self._head_complete = self._complete = False
        self._read_timeout = read_timeout
        self._received_since_check = True
        if self._sink is not None:
            self._sink, self._discarding_since = None, math.inf

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
            self._abandon()
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

    def take_whole(self) -> bytes | None:
        """The rest of the body, if all of it has arrived; else None."""
        return self._take_chunks() if self._complete and self._sink is None else None

    def _body_ended(self) -> bool:
        """Whether the body has ended. ResponseFailed when it broke off."""
        if self._failure is not None and not self._complete and self._discarding_since == math.inf:
            raise ResponseFailed(f"{self.origin}: {self._failure}")
        return self._complete or self._failure is not None

    def _take_chunks(self) -> bytes:
        chunks = self._chunks
        if not chunks:
            return b""
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
        # A server that responds early may never read the rest of the request, or the next one.
        if (
            self._complete
            and self.is_open
            and self._keep_alive
            and self._transport is not None
            and not self._transport.get_write_buffer_size()
        ):
            if self._paused:
                self._on_sink_drained()
            self._idle_since = monotonic()
            self._client.return_to_pool(self)
        else:
            self._abandon()

    def _abandon(self) -> None:
        """Close immediately, and keep nothing of a response that nobody reads any more."""
        self.abort()
        # The parser refers to this connection: only the garbage collector would free them, with all bytes that they hold.
        self._busy, self._chunks, self._headers, self._sink, self._parser = False, [], [], None, None

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
