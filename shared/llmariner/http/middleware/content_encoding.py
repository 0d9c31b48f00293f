"""Bodies of requests that come compressed (RFC 9110 8.4): decoded in parts, so that a small one can't become large."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.responses.messages import Message, Receive

__all__ = ["DecodedBody", "body_coding"]

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PART = 64 * 1024
# What no body needs of a coding beyond sixteen bytes for each of its own: names in the head, empty blocks.
_OVERHEAD = 64 * 1024


def body_coding(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The coding of a body; None for none. UnsupportedMedia, with `Accept-Encoding`, for one that nobody decodes here."""
    values = b",".join(value for name, value in headers if name == b"content-encoding")
    words = [word.strip().lower() for word in values.decode("latin-1").split(",")]
    codings = [word for word in words if word not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        raise UnsupportedMedia(
            f"The content coding {', '.join(codings)!r} is not decoded here: send the body as it is, or in gzip or deflate.",
            headers={"accept-encoding": "gzip, deflate"},
        )
    return codings[0]


class DecodedBody:
    """`receive` of ASGI over another: parts of at most 64 KiB, whatever they were made of. Limits count what comes out."""

    def __init__(self, receive: Receive, coding: str) -> None:
        import zlib

        self._receive = receive
        self._coding = coding
        self._decoder = zlib.decompressobj(_WINDOW_BITS[coding])
        self._failure = zlib.error
        self._pending = b""
        self._more = True
        self._begun = self._ended = False
        self._taken = self._given = 0

    async def __call__(self) -> Message:
        """The next part.

        InvalidRequest when it can't be decoded, ends early, goes on behind its end, or decodes to next to nothing.
        """
        if self._ended:
            return await self._receive()
        while True:
            if not self._pending and self._more:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._pending, self._more = message.get("body", b""), message.get("more_body", False)
            part = self._decoded()
            if self._decoder.eof and not self._more:
                return self._last(part)
            if part:
                await asyncio.sleep(0)  # a bomb is work: others have their turns between its parts
                return {"type": "http.request", "body": part, "more_body": True}
            if not self._more and not self._pending:
                if not self._begun:
                    return self._last(b"")
                raise self._broken("ends early")

    def _decoded(self) -> bytes:
        self._begun = self._begun or bool(self._pending)
        if self._decoder.eof:
            if self._pending:
                raise self._broken("goes on behind its end")
            return b""
        waiting = len(self._pending)
        try:
            part: bytes = self._decoder.decompress(self._pending, _PART)
        except self._failure as error:
            raise self._broken("can't be decoded") from error
        self._pending = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        if self._decoder.eof and self._pending:
            raise self._broken("goes on behind its end")
        self._taken += waiting - len(self._pending)
        self._given += len(part)
        if self._taken > _OVERHEAD + 16 * self._given:  # no limit of what comes out would ever end it
            raise self._broken("is many times as long coded as decoded")
        return part

    def _last(self, part: bytes) -> dict[str, Any]:
        self._ended = True
        return {"type": "http.request", "body": part, "more_body": False}

    def _broken(self, how: str) -> InvalidRequest:
        return InvalidRequest(f"The body {how}: it was said to be {self._coding}.", code="invalid_content_encoding")
