"""Responses as ASGI messages: heads, complete bodies, and errors in OpenAI's format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol, cast

from llmariner.errors import PlatformError
from llmariner.gateway.requests.request_ids import new_request_id

__all__ = [
    "ClientDisconnected",
    "DirectResponse",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "current_task",
    "default_headers",
    "fields_by_name",
    "header_fields",
    "send_error",
    "send_head",
    "send_json",
]

_NO_EXTENSIONS: Final[dict[str, Any]] = {}

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientDisconnected(Exception):
    """The client disconnected or stopped reading, so that no response can be sent."""


class DirectResponse(Protocol):
    """A request as our own server passes it beside ASGI's messages, in `scope["extensions"]["llmariner.response"]`.

    Both writes take no pass of the event loop and return a future while the client reads too slowly.
    """

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that the request runs in."""

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields of the request."""

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The header fields by name."""

    def take_body(self) -> bytes | None:
        """The whole body of the request if it has arrived and was not received yet; None: receive it."""

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client disconnects before its response is complete."""

    def write(self, body: bytes) -> asyncio.Future[None] | None:
        """Write a part of the body."""

    def respond(self, status: int, header_lines: bytes, body: bytes) -> asyncio.Future[None] | None:
        """Write a complete response. `header_lines`: its fields, content-length among them, each ended by CRLF."""


RawHeaders = list[tuple[bytes, bytes]]
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def current_task(response: DirectResponse | None) -> asyncio.Task[None]:
    """The task that handles a request. Without the server's word, asyncio looks for it with a system call, `getpid`."""
    return cast(asyncio.Task[None], asyncio.current_task()) if response is None else response.task


def fields_by_name(scope: Scope) -> dict[bytes, bytes]:
    """The header fields of a request; of a repeated one, the last value. Read it, never change it."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    response: DirectResponse | None = scope.get("extensions", _NO_EXTENSIONS).get("llmariner.response")
    # Middleware may have taken fields away.
    return response.fields if response is not None and response.headers is headers else dict(headers)


def header_fields(lines: bytes) -> RawHeaders:
    """The fields of header lines, each ended by CRLF. Most responses are written from lines, without a list of fields."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


def default_headers() -> RawHeaders:
    """The headers of a response that is sent without processing the request."""
    return [
        (b"x-request-id", new_request_id().encode()),
        (b"openai-version", b"2020-10-01"),
        (b"openai-processing-ms", b"0"),
    ]


async def send_head(send: Send, status: int, content_type: bytes, headers: RawHeaders, length: int | None) -> None:
    """Send the head of a response; `length` is None for a stream."""
    if length is not None:
        entity_headers = [(b"content-length", b"%d" % length), (b"content-type", content_type)]
    else:
        entity_headers = [(b"content-type", content_type), *_STREAM_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": entity_headers + headers})


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    """Send a complete JSON response."""
    await send_head(send, status, b"application/json", headers, len(body))
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: PlatformError, headers: RawHeaders) -> None:
    """Send an error as a complete response. Headers of the error replace those of `headers`."""
    error_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    overridden = {name for name, _ in error_headers}
    kept = [(name, value) for name, value in headers if name not in overridden]
    await send_json(send, error.status, json.dumps(error.body()).encode(), error_headers + kept)
