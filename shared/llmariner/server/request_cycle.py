"""One request and its answer, as ASGI sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from llmariner.server.responses import CONTINUE, status_line

if TYPE_CHECKING:
    from llmariner.server.connection import Connection
    from llmariner.server.server import Server

__all__ = ["Application", "Cycle", "Message"]

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_log = logging.getLogger(__name__)
_WITHOUT_BODY = (204, 304)


class Cycle:
    """One request and its answer. `size` and `parts` are those of the body that came so far."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_disconnected",
        "_given",
        "_hang_up_callbacks",
        "_head",
        "_head_only",
        "_left",
        "_misused",
        "_more",
        "_scope",
        "_server",
        "_waiter",
        "keep_alive",
        "parts",
        "sent",
        "size",
        "started",
        "task",
        "wants_continue",
    )

    def __init__(
        self, connection: Connection, server: Server, scope: Message, keep_alive: bool, wants_continue: bool
    ) -> None:
        self._connection = connection
        self._server = server
        self._scope = scope
        self.keep_alive = keep_alive
        self.wants_continue = wants_continue
        self.size = self.parts = 0
        self._body: bytes | bytearray = b""
        self._more = True
        self._waiter: asyncio.Future[None] | None = None
        self.started = self.sent = self._chunked = self._disconnected = self._given = self._misused = False
        self._head_only = scope["method"] == "HEAD"
        self._head = b""
        self._left: int | None = None
        self._hang_up_callbacks: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None
        scope["extensions"] = {
            "llmariner.on_disconnect": self._on_disconnect,
            "llmariner.write": self._write_now,
        }

    @property
    def method(self) -> str:
        """Of the request."""
        found: str = self._scope["method"]
        return found

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the request."""
        found: list[tuple[bytes, bytes]] = self._scope["headers"]
        return found

    async def run(self) -> None:
        """Let the application answer; whatever it does, the connection ends up in a known state."""
        try:
            await self._server.application(self._scope, self._receive, self._send)
        except (Exception, asyncio.CancelledError) as error:  # it may wait for something that somebody else cancels
            if not (self._disconnected and isinstance(error, asyncio.CancelledError)):
                _log.exception("the application failed on %s %r", self._scope["method"], self._scope["path"])
        finally:
            # Request, scope and task hold each other: undone by hand, since finding such rings takes the garbage
            # collector an eighth of the time of a small request.
            self._hang_up_callbacks.clear()
            self._scope["extensions"] = {}
            self.task = None
        if self._disconnected:
            return
        if not self.started:
            self._connection.failed()
        elif not self.sent or self._left:
            self._connection.abort()
        else:
            # A body that nobody read would be taken for the next request.
            self._connection.finished(keep_alive=self.keep_alive and not (self._more or self._misused))

    def received(self, body: bytes) -> int:
        """Take a part of the body; returns how many bytes wait for the application."""
        self.size += len(body)
        self.parts += 1
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body)
            self._body += body
        self._wake()
        return len(self._body)

    def is_full(self, most: int) -> bool:
        """Whether so many bytes wait for the application that no more should be read."""
        return self._more and len(self._body) > most

    def complete(self) -> None:
        """The body is whole."""
        self._more = False
        self._wake()

    def _on_disconnect(self, callback: Callable[[], None]) -> None:
        if self._disconnected:
            self._connection._loop.call_soon(callback)  # the caller was gone before anybody asked
        else:
            self._hang_up_callbacks.append(callback)

    def hung_up(self) -> None:
        """The caller is gone."""
        self._disconnected = True
        self._wake()
        if not self.sent:
            for callback in self._hang_up_callbacks:
                callback()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self) -> Message:
        if self.wants_continue:
            self.wants_continue = False
            if self._more and not self._body and not self.started and not self._disconnected:
                self._connection.transport.write(CONTINUE)
        while not self._disconnected and not self.sent:
            if self._body or not (self._more or self._given):
                return self._part()
            # The body was given out whole, or more of it is to come: wait for that, or for the hang-up.
            self._waiter = self._connection._loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    def _part(self) -> Message:
        body = bytes(self._body)
        self._body = b""
        if not self._more:
            self._given = True
        else:
            self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def _send(self, message: Message) -> None:
        if self._disconnected:
            await asyncio.sleep(0)  # an application that goes on without looking must not keep others from their turns
            return
        if message["type"] == "http.response.start":
            self._write_head(message["status"], message["headers"])
        else:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        drained = self._connection.drained
        if drained is not None:
            await drained

    def _write_now(self, body: bytes) -> asyncio.Future[None] | None:
        if not self._disconnected:
            self._write_body(body, more=True)
        return self._connection.drained

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.started:
            # It would be taken for the answer to the next request, which may be another caller's.
            self._misuse("a second head for one request")
        self.started = True
        lines = []
        for pair in headers:
            lines.append(b"%b: %b\r\n" % pair)
            if pair[0] == b"content-length":
                self._left = int(pair[1])
        if status in _WITHOUT_BODY or self._head_only:
            self._head_only, self._left = True, None
        elif self._left is None:
            if self._scope["http_version"] == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if self._more or (self._server.ending and not self._connection.has_more):
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        # Leaves with the first part of the body: one system call less per answer.
        self._head = b"%b%b%b\r\n" % (status_line(status), self._server.date, b"".join(lines))

    def _write_body(self, body: bytes, *, more: bool) -> None:
        if self.sent or not self.started:
            self._misuse("a body behind the last one" if self.sent else "a body before its head")
        if self._head_only:
            body = b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                self._misuse("a body longer than its content-length")
        if self._head:
            body = self._head + body
            self._head = b""
        if body:
            self._connection.transport.write(body)
        self.sent = not more

    def _misuse(self, what: str) -> None:
        self._misused = True
        raise RuntimeError(f"the application sent {what}")
