"""Compressed request bodies (RFC 9110, 8.4), decompressed in chunks so that a decompression bomb never fills the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.responses.messages import Message, Receive

__all__ = ["DecompressedBody", "content_encoding"]

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_CHUNK_BYTES = 64 * 1024
# Compressed bytes beyond sixteen for each decompressed byte that a body may have: names in the header, empty blocks.
_OVERHEAD_BYTES = 64 * 1024


def content_encoding(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The encoding of a body, or None. Raises UnsupportedMedia, with `Accept-Encoding`, for an unsupported encoding."""
    values = b",".join(value for name, value in headers if name == b"content-encoding")
    words = [word.strip().lower() for word in values.decode("latin-1").split(",")]
    encodings = [word for word in words if word not in ("", "identity")]
    if not encodings:
        return None
    if len(encodings) > 1 or encodings[0] not in _WINDOW_BITS:
        raise UnsupportedMedia(
            f"The content coding {', '.join(encodings)!r} is not decoded here: send the body as it is, or in "
            "gzip or deflate.",
            headers={"accept-encoding": "gzip, deflate"},
        )
    return encodings[0]


class DecompressedBody:
    """An ASGI `receive` that decompresses the body of another, in chunks of at most 64 KiB; body limits count them."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        import zlib

        self._receive = receive
        self._encoding = encoding
        self._decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
        self._decoder_error = zlib.error
        self._pending = b""
        self._more = True
        self._started = self._finished = False
        self._bytes_in = self._bytes_out = 0

    async def __call__(self) -> Message:
        """The next message.

        Raises InvalidRequest for a body that can't be decoded, is truncated, has trailing data, or decodes to a small
        fraction of its own size.
        """
        if self._finished:
            return await self._receive()
        while True:
            if not self._pending and self._more:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._pending, self._more = message.get("body", b""), message.get("more_body", False)
            part = self._decompress()
            if self._decoder.eof and not self._more:
                return self._last_message(part)
            if part:
                await asyncio.sleep(0)  # lets other tasks run between the chunks of a bomb
                return {"type": "http.request", "body": part, "more_body": True}
            if not self._more and not self._pending:
                if not self._started:
                    return self._last_message(b"")
                raise self._invalid("ends early")

    def _decompress(self) -> bytes:
        self._started = self._started or bool(self._pending)
        if self._decoder.eof:
            if self._pending:
                raise self._invalid("continues after its end")
            return b""
        pending_bytes = len(self._pending)
        try:
            part: bytes = self._decoder.decompress(self._pending, _CHUNK_BYTES)
        except self._decoder_error as error:
            raise self._invalid("can't be decoded") from error
        self._pending = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        if self._decoder.eof and self._pending:
            raise self._invalid("continues after its end")
        self._bytes_in += pending_bytes - len(self._pending)
        self._bytes_out += len(part)
        if (
            self._bytes_in > _OVERHEAD_BYTES + 16 * self._bytes_out
        ):  # the body limit, which counts the output, would never apply
            raise self._invalid("is many times as long coded as decoded")
        return part

    def _last_message(self, part: bytes) -> dict[str, Any]:
        self._finished = True
        return {"type": "http.request", "body": part, "more_body": False}

    def _invalid(self, fault: str) -> InvalidRequest:
        return InvalidRequest(f"The body {fault}: it was said to be {self._encoding}.", code="invalid_content_encoding")
