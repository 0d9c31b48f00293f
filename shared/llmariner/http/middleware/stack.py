"""Middleware of every function under every server: HEAD, CORS, compressed bodies, checks of headers and URLs."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from llmariner.errors import InvalidRequest, PlatformError
from llmariner.gateway.responses.messages import (
    Message,
    Receive,
    Scope,
    Send,
    default_headers,
    fields_by_name,
    send_error,
)
from llmariner.http.middleware.content_encoding import DecompressedBody, content_encoding
from llmariner.http.middleware.cors import Cors

__all__ = ["CONTENT_ENCODING", "HEAD_REQUEST", "MiddlewareStack"]

HEAD_REQUEST = "llmariner.head"
"""The key of a scope whose request is HEAD: its content is not sent, so a handler need not read it."""

CONTENT_ENCODING = "llmariner.content_encoding"
"""The key of a scope whose body is decompressed while it is received: the encoding."""

_ENCODED_BODY_HEADERS = (b"content-encoding", b"content-length")
# Parsers disagree on which of two values counts, so a proxy could check one and a function use the other.
# A number: `in` of a bytes object tries that first, and a search for bytes costs an exception inside the interpreter.
_PERCENT: Final = 0x25
_SINGLE_HEADERS = frozenset({b"authorization", b"openai-organization", b"openai-project"})


class MiddlewareStack:
    """ASGI middleware around `application`. A request that needs none of it is passed on after a look at its headers."""

    def __init__(self, application: Any, cors: Cors | None) -> None:
        self.application = application
        self._cors = cors

    async def close(self) -> None:
        """Close the application at the end of the process, if it has a `close` method."""
        if close := getattr(self.application, "close", None):
            await close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one request."""
        if scope["type"] != "http" or (self._cors is None and _needs_no_middleware(scope)):
            response: Awaitable[None] = self.application(scope, receive, send)
            return response
        return self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._cors is not None:
            headers_by_name = dict(scope["headers"])
            if await self._cors.preflight(scope, headers_by_name, send):
                return
            send = self._cors.wrap_send(headers_by_name.get(b"origin"), send)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET", HEAD_REQUEST: True}, _without_body(send)
        refusal: PlatformError | None = None
        encoding: str | None = None
        try:
            _check_single_headers(scope["headers"])
            _check_url(scope)
            encoding = content_encoding(scope["headers"])
        except PlatformError as error:
            refusal = error.with_traceback(None)
        if refusal is not None:
            await send_error(send, refusal, default_headers())
            return
        if encoding is not None:
            receive = DecompressedBody(receive, encoding)
            headers = [each for each in scope["headers"] if each[0] not in _ENCODED_BODY_HEADERS]
            scope = {**scope, "headers": headers, CONTENT_ENCODING: encoding}
        await self.application(scope, receive, send)


def _needs_no_middleware(scope: Scope) -> bool:
    return (
        scope["method"] != "HEAD"
        and _PERCENT not in scope.get("raw_path", b"%")
        and _PERCENT not in scope.get("query_string", b"")
        and _has_plain_headers(scope)
    )


def _has_plain_headers(scope: Scope) -> bool:
    """Whether there is no encoded body and no repeated header."""
    fields = fields_by_name(scope)
    return b"content-encoding" not in fields and len(fields) == len(scope["headers"])


def _check_single_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest for a repeated header that must have one value (RFC 9110, 5.3)."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen:
            raise InvalidRequest(
                f"The header '{name.decode('latin-1').title()}' is given twice: send it once.", code="duplicate_header"
            )
        if name in _SINGLE_HEADERS:
            seen.add(name)


def _check_url(scope: Scope) -> None:
    """Raises InvalidRequest for a path or query that is not UTF-8 or contains NUL, which databases reject."""
    for part, raw in (("path", scope.get("raw_path") or b""), ("query", scope.get("query_string", b""))):
        text = unquote_to_bytes(raw)
        try:
            text.decode()
        except UnicodeDecodeError:
            text = b"\0"
        if b"\0" in text:
            raise InvalidRequest(
                f"The {part} of the URL is not text in UTF-8: percent-encode what it names, without NUL.",
                code="invalid_url",
            )


def _without_body(send: Send) -> Send:
    """A `send` for HEAD, which is answered as GET without the content (RFC 9110, 9.3.2)."""

    async def send_without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_without_body
