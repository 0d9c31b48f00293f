"""One client connection: parsing, requests one after another, timeouts, and rejection of invalid bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import httptools

from llmariner.client_networks import client_network
from llmariner.server.request_cycle import RequestCycle
from llmariner.server.request_head import RequestRejected, parse_head, rejection_of, request_scope
from llmariner.server.request_task import RequestTask
from llmariner.server.responses import INTERNAL_ERROR, error_response
from llmariner.server.sockets import has_peer_closed
from llmariner.server.upgraded_connection import UpgradedConnection

if TYPE_CHECKING:
    from llmariner.server.server import Server

__all__ = ["Connection"]

_BODY_HIGH_WATER: Final = 262_144
# How much is parsed per turn of the event loop: a chunk of one byte is as much work as a large one. More is parsed of a body
# whose parts have an ordinary size.
_FEED_BYTES: Final = 1024
_BODY_FEED_BYTES: Final = 16_384
_FRAMING_FIELDS = (b"content-length", b"transfer-encoding")


class Connection(asyncio.Protocol):
    """Reads requests and runs them one after another.

    Once `_no_more_requests` is set, further bytes are discarded. After the last response the sending side is closed, and
    the client's bytes are read for a bounded time (`_lingering_since`): closing a connection with unread bytes resets
    it, and the reset may overtake the response (RFC 9112 9.6).
    """

    __slots__ = (
        "_client_address",
        "_client_network",
        "_closing_since",
        "_discarded_bytes",
        "_feed_scheduled",
        "_half_closed",
        "_head_bytes",
        "_head_started",
        "_headers",
        "_last_activity",
        "_limits",
        "_lingering_since",
        "_loop",
        "_no_more_requests",
        "_parser",
        "_paused",
        "_pending_rejection",
        "_queue",
        "_receiving",
        "_server",
        "_server_address",
        "_unparsed",
        "_upgrade",
        "_url",
        "_write_blocked_since",
        "current",
        "drained",
        "requests",
        "transport",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[RequestCycle] = deque()
        self._receiving: RequestCycle | None = None
        self._url = b""
        # None: fields are discarded.
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._head_bytes = self._discarded_bytes = 0
        self._head_started = 0.0
        self._unparsed = b""
        self._client_address: Any = None
        self._server_address: Any = None
        self._half_closed = self._no_more_requests = self._paused = self._feed_scheduled = self._upgrade = False
        self._pending_rejection, self._client_network = b"", ""
        self._last_activity = server.now
        self._closing_since: float | None = None
        self._lingering_since: float | None = None
        self._write_blocked_since: float | None = None
        self.current: RequestCycle | None = None
        self.drained: asyncio.Future[None] | None = None
        self.requests = RequestTask(self, loop)
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self._server
        server.connections.add(self)
        self._client_address = transport.get_extra_info("peername")
        self._server_address = transport.get_extra_info("sockname")
        if server.limits.connections_per_address and self._client_address:
            self._client_network = client_network(self._client_address[0])
            server.connections_per_network[self._client_network] += 1
            if server.connections_per_network[self._client_network] > server.limits.connections_per_address:
                self.reject(
                    429, "Too many connections are open from your address: close some, or send requests on them."
                )

    def connection_lost(self, exc: Exception | None) -> None:
        server = self._server
        server.connections.discard(self)
        if self._client_network:
            server.connections_per_network[self._client_network] -= 1
            if not server.connections_per_network[self._client_network]:
                del server.connections_per_network[self._client_network]
        self._no_more_requests, self._unparsed = True, b""
        self._drop_unread()
        # It refers to this connection: only the garbage collector would free them, with what has arrived of a head.
        self._parser = None
        self.resume_writing()
        self._queue.clear()
        self._disconnect_current()
        self.requests.wake()

    def data_received(self, data: bytes) -> None:
        if self._no_more_requests:
            self._discard(len(data))
        elif self._unparsed or len(data) > _FEED_BYTES:
            self._unparsed += data
            self._feed_unparsed()
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        """The client closed its sending side. Most are gone then; a half-closed one receives what is ready shortly after."""
        self._half_closed = True
        if not self._no_more_requests and (self._receiving is not None or self._head_bytes):
            self.reject(400, "The request ended in its middle.")
        self._no_more_requests = True
        if self.current is None:
            return False
        self._loop.call_later(self._server.limits.half_closed_seconds, self._close_half_closed)
        return True

    def pause_writing(self) -> None:
        self.drained = self._loop.create_future()
        self._write_blocked_since = self._server.now

    def resume_writing(self) -> None:
        self._write_blocked_since = None
        if self.drained is not None:
            if not self.drained.done():
                self.drained.set_result(None)
            self.drained = None

    # --- callbacks of the parser ---

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", [] if self._receiving is None else None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers is not None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers = self._headers
        if self._receiving is not None or self._no_more_requests or headers is None:
            return  # the head that `_decline_upgrade` feeds its parser, or bytes after the last request
        self._head_bytes = 0
        parser, limits = self._parser, self._limits
        # A field after the head is a trailer, which must not be merged into the header (RFC 9110 6.5.1).
        self._headers = None
        if len(headers) > limits.head_fields:
            raise RequestRejected(431, f"The head of the request has over {limits.head_fields} fields.")
        version = parser.get_http_version()
        fields = dict(headers)
        chunked, wants_continue = parse_head(version, headers, fields)
        self._upgrade = parser.should_upgrade()
        keep_alive = version == "1.1" and parser.should_keep_alive()
        scope = request_scope(parser.get_method(), self._url, version, headers)
        self._url = b""
        scope["client"], scope["server"] = self._client_address, self._server_address
        cycle = self._receiving = RequestCycle(self, self._server, scope, fields, keep_alive, wants_continue, chunked)
        if self.current is None:
            self._start(cycle)
        else:
            self._queue.append(cycle)
            self._pause()

    def on_body(self, body: bytes) -> None:
        if self._receiving is None:
            return  # bytes after the last request
        if self._receiving.feed_body(body) > _BODY_HIGH_WATER:
            self._pause()

    def on_message_complete(self) -> None:
        if self._upgrade or self._receiving is None:
            return
        self._receiving.on_body_complete()
        self._no_more_requests = not self._receiving.keep_alive
        self._receiving = None

    # --- called by a request cycle ---

    @property
    def accepts_requests(self) -> bool:
        """Whether another request may follow on this connection."""
        return not self._no_more_requests

    @property
    def has_pending_requests(self) -> bool:
        """Whether received requests wait for their turn."""
        return bool(self._queue) or bool(self._pending_rejection)

    def on_response_complete(self, *, keep_alive: bool) -> None:
        """The current response is complete: start the next request, or close the connection."""
        self.current = None
        self._last_activity = self._server.now
        if not keep_alive:
            self._linger()
        elif self._queue:
            self._start(self._queue.popleft())
        elif self._pending_rejection:
            self._send_and_close(self._pending_rejection)
        elif self._no_more_requests or (self._server.shutting_down and not self._head_bytes):
            self._linger()
        self.resume_reading()

    def on_application_error(self) -> None:
        """The application did not respond to the current request: send a 500 response, and close."""
        if self._receiving is self.current:
            self._receiving = None
        self.current = None
        self.reject(500, INTERNAL_ERROR)

    def resume_reading(self) -> None:
        """Continue reading, unless requests wait for their turn or the connection is closing. Idempotent."""
        if not self._paused or self._queue or self.transport.is_closing():
            return
        if not self._unparsed:
            self._paused = False
            self.transport.resume_reading()
        elif not self._feed_scheduled:
            self._feed_scheduled = True
            self._loop.call_soon(self._feed_unparsed)

    def reject(self, status: int, message: str) -> None:
        """Accept no further request; send this error once earlier requests are answered, and close."""
        self._no_more_requests, self._unparsed, self._head_bytes, self._upgrade = True, b"", 0, False
        if self.transport.is_closing():
            return
        rejected, self._receiving = self._receiving, None
        response = error_response(status, message, self._server.date)
        if rejected is not None and rejected is self.current:
            self.current = None
            rejected.on_disconnect()
            if rejected.response_started and not rejected.response_complete:
                self.abort()
            elif rejected.response_started:
                self._linger()
            else:
                self._send_and_close(response)
            return
        if rejected is not None:
            self._queue.remove(rejected)
        if self.current is None:
            self._send_and_close(response)
        else:
            self._pending_rejection = response

    def upgrade(self, head: bytes, protocol: asyncio.Protocol, on_shutdown: Callable[[], None]) -> bool:
        """See `RequestCycle.upgrade`."""
        busy = self._no_more_requests or self._queue or self._receiving is not None or self.drained is not None
        if busy or self._unparsed or self._head_bytes or self.transport.is_closing():
            return False
        self._no_more_requests, self.current = True, None
        self.transport.write(head)
        UpgradedConnection(self._server, self, protocol, on_shutdown)
        return True

    def abort(self) -> None:
        """Close immediately, without sending what is buffered."""
        self.transport.abort()

    # --- timeouts ---

    def close_if_idle(self) -> None:
        """Close unless a request or its head is in progress; for the server's shutdown."""
        if self.current is None and not self._head_bytes and self._lingering_since is None:
            self._close()

    def check_timeouts(self) -> None:
        """Reject, close or abort when a timeout of `ServerLimits` has passed. Called every tick."""
        if self._queue and not self.transport.is_closing() and has_peer_closed(self.transport):
            self._close_half_closed()
            return
        now, limits = self._server.now, self._limits
        blocked_since = self._write_blocked_since if self._write_blocked_since is not None else self._closing_since
        if blocked_since is not None and now - blocked_since > limits.write_seconds:
            self.abort()
        elif self._lingering_since is not None:
            self._check_lingering(self._lingering_since)
        elif self._receiving is not None:
            self._check_body(self._receiving)
        elif self.current is None and self._head_bytes:
            if now - self._head_started > limits.head_seconds:
                self.reject(408, "The head of the request took too long.")
        elif self.current is None and self._closing_since is None and now - self._last_activity > limits.idle_seconds:
            self._close()

    def _check_lingering(self, since: float) -> None:
        now, limits = self._server.now, self._limits
        if self.transport.get_write_buffer_size():
            if now - since > limits.write_seconds:
                self.abort()
        elif now - since > limits.linger_seconds or now - self._last_activity > limits.linger_quiet_seconds:
            self.abort()

    def _check_body(self, receiving: RequestCycle) -> None:
        """Only time spent reading counts: neither a pause nor the wait of a client for `100 Continue`."""
        limits = self._limits
        if self._paused or receiving.wants_continue:
            return
        if receiving.is_slow(limits):
            self.reject(408, f"The body came too slowly: under {limits.body_bytes} bytes in {limits.body_seconds:g} s.")

    # --- reading ---

    def _feed_unparsed(self) -> None:
        """Parse a slice of the buffered bytes; the rest follows in later turns of the event loop."""
        self._feed_scheduled = False
        receiving = self._receiving
        if receiving is None or receiving.body_chunked:
            self._feed_slice(_FEED_BYTES)
        receiving = self._receiving
        if self._unparsed and receiving is not None:
            if not receiving.body_chunked:
                # Without chunks, a body of any size is one call of the parser.
                self._feed_slice(max(receiving.missing_bytes(), _FEED_BYTES))
            elif receiving.has_ordinary_parts():
                self._feed_slice(_BODY_FEED_BYTES)
        if self._unparsed:
            self._pause()
        if self._receiving is None or not self._receiving.is_full(_BODY_HIGH_WATER):
            self.resume_reading()

    def _feed_slice(self, size: int) -> None:
        data, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        if self._no_more_requests:
            self._unparsed = b""
        elif data:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._receiving is not None:
            self._receiving.framed_bytes += len(data)
        else:
            if not self._head_bytes:
                self._head_started = self._server.now
            self._head_bytes += len(data)
        rest: bytes | None = None
        try:
            self._parser.feed_data(data)
            self._check_bytes()
        except httptools.HttpParserUpgrade as offer:
            rest = data[offer.args[0] :]
        except httptools.HttpParserError as error:
            if not self._no_more_requests:  # bytes after the last request are discarded
                rejected = rejection_of(error)
                self.reject(rejected.status, rejected.message)
        if rest is not None:  # not while the offer is handled: it would be the context of what is wrong with the rest
            self._decline_upgrade(rest)

    def _check_bytes(self) -> None:
        limits, receiving = self._limits, self._receiving
        if receiving is None:
            if self._head_bytes > limits.head_bytes:
                status = 414 if len(self._url) > limits.head_bytes // 2 else 431
                self.reject(status, f"The head of the request is over {limits.head_bytes} bytes.")
        elif problem := receiving.framing_problem(limits):
            self.reject(400, problem)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Ignore an offered upgrade (RFC 9110 7.8). The parser stops at such a head, so that a new one reads the body."""
        if self._receiving is None:
            return  # bytes after the last request
        if self._receiving.method == "CONNECT":
            self.reject(501, "This is no proxy.")
            return
        self._upgrade = False
        self._parser = httptools.HttpRequestParser(self)
        framing = b"".join(b"%b: %b\r\n" % each for each in self._receiving.headers if each[0] in _FRAMING_FIELDS)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
        if rest and not self._no_more_requests:
            self._feed(rest)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        self._last_activity = self._server.now
        if self._discarded_bytes > self._server.limits.linger_bytes:
            self.abort()

    # --- running and closing ---

    def _start(self, cycle: RequestCycle) -> None:
        self.current = cycle
        self.requests.run_current()

    def _send_and_close(self, response: bytes) -> None:
        self._pending_rejection = b""
        self.transport.write(response)
        self._linger()

    def _linger(self) -> None:
        """Close the sending side once everything is written; read and discard what the client still sends."""
        self._no_more_requests = True
        if self._half_closed or self._lingering_since is not None or self.transport.is_closing():
            self._close()
            return
        self._lingering_since = self._last_activity = self._server.now
        self._drop_unread()
        self.transport.write_eof()
        if self._paused:
            self._paused, self._unparsed = False, b""
            self.transport.resume_reading()

    def _drop_unread(self) -> None:
        """Free what was received of a request that nobody reads any more: a rejected body, or a part of a head."""
        self._receiving = self._headers = None
        self._url = b""

    def _close(self) -> None:
        if self._closing_since is None:
            self._closing_since = self._server.now
            self.transport.close()

    def _close_half_closed(self) -> None:
        if not self.transport.is_closing():
            self._disconnect_current()
            self._close()

    def _disconnect_current(self) -> None:
        cycle, self.current = self.current, None
        if cycle is not None:
            cycle.on_disconnect()
