"""An ASGI server as lean as the token path needs: HTTP/1.1 on asyncio and httptools, nothing else.

uvicorn does the same with more around it, at twice the CPU per request and per start. What is kept: streaming both ways
with back-pressure, keep-alive, pipelined requests in order, `Expect: 100-continue`, bounds on heads and on idle and slow
connections, a graceful end. What is left out: websockets, lifespan, TLS, HTTP/2 (the Gateway before us speaks those).

Two extensions in `scope["extensions"]`, for the token path. `llmariner.on_disconnect` takes a callback for the caller's
hang-up, which costs less than a task that waits for `http.disconnect`. `llmariner.write` writes a part of a body at once;
it returns None, or a future to wait for before more is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools

__all__ = ["Application", "Server"]

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_log = logging.getLogger(__name__)
_HEAD_LIMIT = 64 * 1024
_BODY_HIGH_WATER = 256 * 1024
_IDLE_SECONDS = 75.0
_HEAD_SECONDS = 30.0
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server:
    """Serves one application until told to end."""

    def __init__(self, application: Application, *, host: str, port: int, grace: float = 30.0) -> None:
        self.application = application
        self.connections: set[_Connection] = set()
        self.ending = False
        self.date = b""
        self._address = (host, port)
        self._grace = grace
        self._end = asyncio.Event()

    async def serve(self, listening: Callable[[], None] = lambda: None) -> None:
        """Listen until SIGTERM or SIGINT; then let what is under way finish, up to the grace. OSError: port taken.

        `listening` is called once the port is ours.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Connection(self, loop), *self._address, backlog=2048)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: somebody else ends us
                loop.add_signal_handler(number, self.end)
        self._tick()
        listening()
        sweeper = asyncio.create_task(self._sweep())
        try:
            await self._end.wait()
        finally:
            sweeper.cancel()
            listener.close()
            await self._finish()

    def end(self) -> None:
        """Begin to end."""
        self.ending = True
        self._end.set()

    async def _finish(self) -> None:
        deadline = time.monotonic() + self._grace
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - the end of the process, not a hot path
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._tick()
            now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_stale(now)

    def _tick(self) -> None:
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"


class _Connection(asyncio.Protocol):
    """A caller's connection: reads requests, runs them one after another."""

    __slots__ = (
        "_addresses",
        "_head_size",
        "_headers",
        "_loop",
        "_parser",
        "_queue",
        "_reading",
        "_server",
        "_url",
        "current",
        "drained",
        "quiet_since",
        "transport",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[_Cycle] = deque()
        self._reading: _Cycle | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._addresses: tuple[Any, Any] = (None, None)
        self.current: _Cycle | None = None
        self.drained: asyncio.Future[None] | None = None
        self.quiet_since = time.monotonic()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._addresses = (transport.get_extra_info("peername"), transport.get_extra_info("sockname"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self.resume_writing()
        self._queue.clear()
        if self.current is not None:
            self.current.hung_up()

    def data_received(self, data: bytes) -> None:
        try:
            if self._reading is None:
                self._head_size += len(data)
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An offer we need not take (h2c, say): the request itself is answered, then the parser is of no more use.
            if self.current is not None:
                self.current.last_one()
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, httptools.HttpParserInvalidURLError):
                self.refuse(400, "The request's target is not a valid URL.")
            else:
                _log.exception("reading a request failed")
                self.refuse(500, "Something broke on our side.")
        except httptools.HttpParserError:
            self.refuse(400, "This is not a valid HTTP/1.1 request.")
        else:
            if self._reading is None and self._head_size > _HEAD_LIMIT:
                self.refuse(431, f"The head of the request is over {_HEAD_LIMIT} bytes.")

    def pause_writing(self) -> None:
        self.drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self.drained is not None:
            if not self.drained.done():
                self.drained.set_result(None)
            self.drained = None

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_size = 0
        cycle = self._reading = _Cycle(self, self._server, self._scope(), self._parser.should_keep_alive())
        if self.current is None:
            self._start(cycle)
        else:
            self._queue.append(cycle)
            self.transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        assert self._reading is not None
        if self._reading.received(body) > _BODY_HIGH_WATER:
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        assert self._reading is not None
        self._reading.complete()
        self._reading = None

    def finished(self, *, keep_alive: bool) -> None:
        """The current cycle's answer is whole: the next one, or the connection's end."""
        self.current = None
        self.quiet_since = time.monotonic()
        if not keep_alive or self._server.ending:
            self.transport.close()
        elif self._queue:
            self._start(self._queue.popleft())
        if not self._queue and not self.transport.is_closing():
            self.transport.resume_reading()

    def refuse(self, status: int, sentence: str) -> None:
        """Answer what is no request, and hang up."""
        error = {"message": sentence, "type": "invalid_request_error", "param": None, "code": "bad_request"}
        body = json.dumps({"error": error}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
        head += b"x-request-id: req_%b\r\n\r\n" % os.urandom(12).hex().encode()
        if self.current is None and not self.transport.is_closing():
            self.transport.write(_STATUS_LINES[status] + head + body)
        self.transport.close()

    def close_if_idle(self) -> None:
        """Nothing is under way here, so the end need not wait."""
        if self.current is None:
            self.transport.close()

    def close_if_stale(self, now: float) -> None:
        """Idle for too long, or a head that does not end."""
        limit = _HEAD_SECONDS if self._head_size else _IDLE_SECONDS
        if self.current is None and now - self.quiet_since > limit:
            self.transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self.transport.abort()

    def _start(self, cycle: _Cycle) -> None:
        self.current = cycle
        cycle.task = self._loop.create_task(cycle.run())

    def _scope(self) -> Message:
        path, raw_path, query = _parsed(self._url)
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": self._parser.get_http_version(),
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._addresses[0],
            "server": self._addresses[1],
        }


@lru_cache(maxsize=1024)
def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it came and query of a request's target; most requests ask for one of few."""
    parts = httptools.parse_url(url)
    raw_path = parts.path or b"/"
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return path.decode("utf-8", "surrogateescape"), raw_path, parts.query or b""


class _Cycle:
    """One request and its answer."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_disconnected",
        "_given",
        "_hang_up_callbacks",
        "_head",
        "_head_only",
        "_keep_alive",
        "_more",
        "_scope",
        "_sent",
        "_server",
        "_started",
        "_waiter",
        "_wants_continue",
        "task",
    )

    def __init__(self, connection: _Connection, server: Server, scope: Message, keep_alive: bool) -> None:
        self._connection = connection
        self._server = server
        self._scope = scope
        self._keep_alive = keep_alive
        self._body: list[bytes] = []
        self._more = True
        self._waiter: asyncio.Future[None] | None = None
        self._started = self._sent = self._chunked = self._disconnected = self._given = False
        self._head_only = scope["method"] == "HEAD"
        self._wants_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in scope["headers"])
        self._head = b""
        self._hang_up_callbacks: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None
        scope["extensions"] = {
            "llmariner.on_disconnect": self._on_disconnect,
            "llmariner.write": self._write_now,
        }

    async def run(self) -> None:
        """Let the application answer; whatever it does, the connection ends up in a known state."""
        try:
            await self._server.application(self._scope, self._receive, self._send)
        except Exception:
            _log.exception("the application failed on %s %s", self._scope["method"], self._scope["path"])
        finally:
            # Request, scope and task hold each other: undone by hand, since finding such rings takes the garbage
            # collector an eighth of the time of a small request.
            self._hang_up_callbacks.clear()
            self._scope["extensions"] = {}
            self.task = None
        if self._disconnected:
            return
        if not self._started:
            self._connection.current = None
            self._connection.refuse(500, "Something broke on our side.")
        elif not self._sent:
            self._connection.abort()
        else:
            # A body that nobody read would be taken for the next request.
            self._connection.finished(keep_alive=self._keep_alive and not self._more)

    def received(self, body: bytes) -> int:
        """Take a part of the body; returns how many bytes wait for the application."""
        self._body.append(body)
        self._wake()
        return sum(map(len, self._body))

    def complete(self) -> None:
        """The body is whole."""
        self._more = False
        self._wake()

    def last_one(self) -> None:
        """Close the connection after this answer."""
        self._keep_alive = False

    def _on_disconnect(self, callback: Callable[[], None]) -> None:
        if self._disconnected:
            self._connection._loop.call_soon(callback)  # the caller was gone before anybody asked
        else:
            self._hang_up_callbacks.append(callback)

    def hung_up(self) -> None:
        """The caller is gone."""
        self._disconnected = True
        self._wake()
        if not self._sent:
            for callback in self._hang_up_callbacks:
                callback()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self) -> Message:
        if self._wants_continue and self._more and not self._body and not self._started:
            self._wants_continue = False
            self._connection.transport.write(_CONTINUE)
        while not self._disconnected and not self._sent:
            if self._body or not (self._more or self._given):
                return self._part()
            # The body was given out whole, or more of it is to come: wait for that, or for the hang-up.
            self._waiter = self._connection._loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    def _part(self) -> Message:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if not self._more:
            self._given = True
        elif not self._connection._queue:
            self._connection.transport.resume_reading()
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def _send(self, message: Message) -> None:
        if self._disconnected:
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
        self._started = True
        lines = [b"%b: %b\r\n" % pair for pair in headers]
        framed = any(name == b"content-length" for name, _ in headers)
        if not framed and status not in (204, 304):
            if self._scope["http_version"] == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._keep_alive = False
        if not self._keep_alive:
            lines.append(b"connection: close\r\n")
        status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        # Leaves with the first part of the body: one system call less per answer.
        self._head = b"%b%b%b\r\n" % (status_line, self._server.date, b"".join(lines))

    def _write_body(self, body: bytes, *, more: bool) -> None:
        if self._head_only:
            body = b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        if self._head:
            body = self._head + body
            self._head = b""
        if body:
            self._connection.transport.write(body)
        self._sent = not more
