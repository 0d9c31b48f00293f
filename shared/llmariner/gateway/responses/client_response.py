"""The response to one model request: its head, its parts or its whole body, and its error."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from llmariner.errors import PlatformError
from llmariner.gateway.requests.request_ids import new_request_id
from llmariner.gateway.responses import server_sent_events as sse
from llmariner.gateway.responses.messages import (
    ClientDisconnected,
    DirectResponse,
    Message,
    Receive,
    Scope,
    Send,
    header_fields,
    send_error,
    send_head,
    send_json,
)

__all__ = ["ClientResponse"]

_NO_EXTENSIONS: Final[dict[str, Any]] = {}
_EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"


class ClientResponse:
    """What the client of one request gets.

    `direct`: the way past ASGI's messages, None where the server has none, or something adds to the response.
    `stream_started`: its head was sent. `sent`: it is complete, or its error is. `started_at`: `perf_counter` seconds.
    `limit_lines`: the header lines of limits.
    """

    # Initial values, here rather than in `__init__`: most of these never change during a request.
    stream_started = False
    sent = False
    limit_lines = b""
    _organization_line = b""

    def __init__(self, scope: Scope, send: Send, write_timeout: float) -> None:
        self.direct: DirectResponse | None = scope.get("extensions", _NO_EXTENSIONS).get("llmariner.response")
        self.started_at = time.perf_counter()
        self.request_id = new_request_id()
        self._asgi_send = send
        self._write_timeout = write_timeout

    def set_organization(self, organization_id: str) -> None:
        """Name the organization of the request in the head."""
        self._organization_line = b"openai-organization: %b\r\n" % organization_id.encode()

    def wrap(self, annotate: Callable[[Send], Send]) -> None:
        """Send the response through ASGI's `send`, as `annotate` returns it."""
        self.direct, self._asgi_send = None, annotate(self._asgi_send)

    def body_at_hand(self, receive: Receive) -> bytes | None:
        """The request's whole body if it has arrived and nothing between changes it; None: call `receive`."""
        direct = self.direct
        if direct is None or getattr(receive, "__self__", None) != direct:
            return None
        return direct.take_body()

    def respond(self, body: bytes) -> Awaitable[None] | None:
        """Send a complete JSON object. Wait for what this returns: None while the client reads fast enough."""
        self.sent = True
        direct = self.direct
        # Middleware that wraps `send` has something to add to the response.
        if direct is None or getattr(self._asgi_send, "__self__", None) != direct:
            return send_json(self._send, 200, body, self._fields())
        lines = b"%bcontent-length: %d\r\ncontent-type: application/json\r\n" % (self._lines(), len(body))
        return direct.respond(200, lines, body)

    async def start_stream(self) -> None:
        """Send the head of a stream. Idempotent."""
        if not self.stream_started:
            self.stream_started = True
            await send_head(self._send, 200, _EVENT_STREAM, self._fields(), None)

    async def send_part(self, body: bytes) -> None:
        """Send a part of a stream. ClientDisconnected when the client does not read it within the write timeout."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end_stream(self) -> None:
        """End a stream."""
        self.sent = True
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: PlatformError) -> None:
        """Send an error, unless a response was sent: a second one would be read as that of the next request."""
        if self.sent:
            return
        self.sent = True
        with contextlib.suppress(ClientDisconnected):
            if self.stream_started:
                await self._send({"type": "http.response.body", "body": sse.format_event(error.body())})
            else:
                await send_error(self._send, error, self._fields())

    def _send(self, message: Message) -> Awaitable[None]:
        # A server with that extension enforces the timeout of slow readers itself.
        return self._asgi_send(message) if self.direct is not None else self._send_with_timeout(message)

    async def _send_with_timeout(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._asgi_send(message)
        except TimeoutError:
            raise ClientDisconnected from None

    def _fields(self) -> list[tuple[bytes, bytes]]:
        return header_fields(self._lines())

    def _lines(self) -> bytes:
        return b"x-request-id: %b\r\nopenai-version: 2020-10-01\r\n%b%bopenai-processing-ms: %d\r\n" % (
            self.request_id.encode(),
            self._organization_line,
            self.limit_lines,
            int((time.perf_counter() - self.started_at) * 1000),
        )
