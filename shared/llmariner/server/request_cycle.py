"""One request and its response, as an ASGI scope with its receive and send callables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from llmariner.server.responses import CONTINUE, field_lines, status_line

if TYPE_CHECKING:
    from llmariner.server.connection import Connection
    from llmariner.server.limits import ServerLimits
    from llmariner.server.server import Server

__all__ = ["Application", "Message", "RequestCycle"]

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_log = logging.getLogger(__name__)
_WITHOUT_BODY = (204, 304)
_FREE_PARTS: Final = 8
_MIN_AVERAGE_PART: Final = 64


class RequestCycle:
    """One request and its response.

    `framed_bytes` counts what was received of the body with its framing. `body_chunked`: it comes in chunks.
    """

    __slots__ = (
        "_body",
        "_body_parts",
        "_body_size",
        "_chunked",
        "_connection",
        "_disconnect_callbacks",
        "_disconnected",
        "_eof_delivered",
        "_head",
        "_interval_seconds",
        "_interval_start",
        "_more_body",
        "_no_body",
        "_protocol_violated",
        "_remaining_length",
        "_scope",
        "_server",
        "_waiter",
        "body_chunked",
        "fields",
        "framed_bytes",
        "keep_alive",
        "response_complete",
        "response_started",
        "wants_continue",
    )

    def __init__(
        self,
        connection: Connection,
        server: Server,
        scope: Message,
        fields: dict[bytes, bytes],
        keep_alive: bool,
        wants_continue: bool,
        body_chunked: bool,
    ) -> None:
        self._connection = connection
        self._server = server
        self._scope = scope
        self.fields = fields
        self.keep_alive = keep_alive
        self.wants_continue = wants_continue
        self.body_chunked = body_chunked
        self.framed_bytes = self._body_size = self._body_parts = self._interval_start = 0
        self._interval_seconds = 0.0
        self._body: bytes | bytearray = b""
        self._more_body = True
        self._waiter: asyncio.Future[None] | None = None
        self.response_started = self.response_complete = self._chunked = self._disconnected = self._eof_delivered = (
            self._protocol_violated
        ) = False
        self._no_body = scope["method"] == "HEAD"
        self._head = b""
        self._remaining_length: int | None = None
        self._disconnect_callbacks: list[Callable[[], None]] = []
        scope["extensions"] = {"llmariner.response": self}

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that the request runs in."""
        task = self._connection.requests.task
        assert task is not None
        return task

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected."""
        return self._disconnected

    @property
    def method(self) -> str:
        """The request's method."""
        method: str = self._scope["method"]
        return method

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The request's header fields, names in lower case."""
        headers: list[tuple[bytes, bytes]] = self._scope["headers"]
        return headers

    async def run(self) -> bool:
        """Run the application. Afterwards the connection serves the next request or closes, whatever the application did.

        False: the application was canceled, and with it the task, which must not run another request.
        """
        canceled = False
        try:
            await self._server.application(self._scope, self._receive, self._send)
        except (Exception, asyncio.CancelledError) as error:
            # CancelledError also comes from a task that the application awaits and that is canceled elsewhere.
            canceled = isinstance(error, asyncio.CancelledError)
            if not (self._disconnected and isinstance(error, asyncio.CancelledError)):
                _log.exception("the application failed on %s %r", self._scope["method"], self._scope["path"])
        finally:
            # Request and scope refer to each other: this breaks the cycle, because the garbage collector would spend an
            # eighth of the time of a small request on finding it.
            self._disconnect_callbacks.clear()
            self._scope["extensions"] = {}
        if self._disconnected:
            pass
        elif not self.response_started:
            self._connection.on_application_error()
        elif not self.response_complete or self._remaining_length:
            self._connection.abort()
        else:
            # The unread rest of a body would be parsed as the next request.
            self._connection.on_response_complete(
                keep_alive=self.keep_alive and not (self._more_body or self._protocol_violated)
            )
        return not canceled

    def feed_body(self, body: bytes) -> int:
        """Buffer a part of the body; returns how many bytes wait for the application."""
        self._body_size += len(body)
        self._body_parts += 1
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body)
            self._body += body
        self._wake()
        return len(self._body)

    def missing_bytes(self) -> int:
        """How much of a body without chunks was not received yet."""
        return int(self.fields.get(b"content-length", b"0")) - self._body_size

    def has_ordinary_parts(self) -> bool:
        """Whether the parts of the body are no smaller on average than those that clients usually send."""
        return self._body_parts <= _FREE_PARTS + self._body_size // _MIN_AVERAGE_PART

    def framing_problem(self, limits: ServerLimits) -> str:
        """What is wrong with the framing of the body received so far; empty: nothing."""
        if self.framed_bytes > limits.framing_bytes + 17 * self._body_size:
            return "The framing of the body is many times as long as the body."
        if self.body_chunked and self._body_parts > limits.chunks + self._body_size // _MIN_AVERAGE_PART:
            return "The body comes in too many, too small chunks: send it in chunks of at least 64 bytes."
        return ""

    def is_slow(self, limits: ServerLimits) -> bool:
        """Count a tick spent reading; whether an interval ends with it in which too few bytes of the body arrived."""
        self._interval_seconds += limits.tick_seconds
        if self._interval_seconds < limits.body_seconds:
            return False
        received = self._body_size - self._interval_start
        self._interval_seconds, self._interval_start = 0.0, self._body_size
        return received < limits.body_bytes

    def is_full(self, high_water: int) -> bool:
        """Whether more of the body is to come, and more than `high_water` bytes wait for the application."""
        return self._more_body and len(self._body) > high_water

    def on_body_complete(self) -> None:
        """Mark the body as complete."""
        self._more_body = False
        self._wake()

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client disconnects before its response is complete, or soon if it did."""
        if self._disconnected:
            self._connection._loop.call_soon(callback)  # the client was gone before the callback was added
        else:
            self._disconnect_callbacks.append(callback)

    def on_disconnect(self) -> None:
        """Report the client's disconnect to the application, unless its response is complete."""
        self._disconnected = True
        self._wake()
        if not self.response_complete:
            for callback in self._disconnect_callbacks:
                callback()

    def take_body(self) -> bytes | None:
        """The whole body if it has arrived and was not received yet, without a coroutine; None: receive it."""
        if self._more_body or self._eof_delivered or self._disconnected:
            return None
        self._eof_delivered = True
        body, self._body = self._body, b""
        return body if isinstance(body, bytes) else bytes(body)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self) -> Message:
        if self.wants_continue:
            self.wants_continue = False
            if self._more_body and not self._body and not self.response_started and not self._disconnected:
                self._connection.transport.write(CONTINUE)
        while not self._disconnected and not self.response_complete:
            if self._body or not (self._more_body or self._eof_delivered):
                return self._next_message()
            # The whole body was delivered, or more of it is to come: wait for the disconnect, or for more.
            self._waiter = self._connection._loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    def _next_message(self) -> Message:
        body = bytes(self._body)
        self._body = b""
        if not self._more_body:
            self._eof_delivered = True
        else:
            self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def _send(self, message: Message) -> None:
        if self._disconnected:
            await asyncio.sleep(0)  # an application that ignores the disconnect must not starve other tasks
            return
        if message["type"] == "http.response.start":
            headers = message["headers"]
            length = dict(headers).get(b"content-length")
            self._write_head(message["status"], field_lines(headers), None if length is None else int(length))
        else:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        drained = self._connection.drained
        if drained is not None:
            await drained

    def write(self, body: bytes) -> asyncio.Future[None] | None:
        """Write a part of the body without a pass of the event loop. Returns a future while the client reads too slowly."""
        if not self._disconnected:
            self._write_body(body, more=True)
        return self._connection.drained

    def respond(self, status: int, header_lines: bytes, body: bytes) -> asyncio.Future[None] | None:
        """Write a complete response. `header_lines`: its fields, content-length among them, each ended by CRLF.

        Returns as `write` does.
        """
        if not self._disconnected:
            self._write_head(status, header_lines, len(body))
            self._write_body(body, more=False)
        return self._connection.drained

    def upgrade(
        self, headers: list[tuple[bytes, bytes]], protocol: asyncio.Protocol, on_shutdown: Callable[[], None]
    ) -> bool:
        """Respond with 101 and these fields; `protocol` gets the connection from then on, and the request has no response.

        False, and nothing is written, when the request has a body or bytes follow it already: a client that waits for the
        response sends none, and they must not be read as another protocol's. `on_shutdown` is called when the server
        begins to shut down.
        """
        if self._disconnected or self.response_started or self._more_body or self._body_size:
            return False
        head = b"%b%b\r\n" % (status_line(101), field_lines([(b"connection", b"Upgrade"), *headers]))
        if not self._connection.upgrade(head, protocol, on_shutdown):
            return False
        self.response_started = self.response_complete = self._disconnected = True
        return True

    def _write_head(self, status: int, header_lines: bytes, length: int | None) -> None:
        if self.response_started:
            # A second head would be read as the response to the next request, which may be another client's.
            self._protocol_error("a second head for one request")
        self.response_started, self._remaining_length = True, length
        more_fields = b""
        if status in _WITHOUT_BODY or self._no_body:
            self._no_body, self._remaining_length = True, None
        elif length is None:
            if self._scope["http_version"] == "1.1":
                self._chunked = True
                more_fields = b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if self._more_body or (self._server.shutting_down and not self._connection.has_pending_requests):
            self.keep_alive = False
        if not self.keep_alive:
            more_fields += b"connection: close\r\n"
        # The head is sent with the first part of the body: one system call less per response.
        self._head = b"%b%b%b%b\r\n" % (status_line(status), self._server.date, header_lines, more_fields)

    def _write_body(self, body: bytes, *, more: bool) -> None:
        if self.response_complete or not self.response_started:
            self._protocol_error("a body behind the last one" if self.response_complete else "a body before its head")
        if self._no_body:
            body = b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        elif self._remaining_length is not None:
            self._remaining_length -= len(body)
            if self._remaining_length < 0:
                self._protocol_error("a body longer than its content-length")
        if self._head:
            body = self._head + body
            self._head = b""
        if body:
            self._connection.transport.write(body)
        self.response_complete = not more

    def _protocol_error(self, what: str) -> None:
        self._protocol_violated = True
        raise RuntimeError(f"the application sent {what}")
