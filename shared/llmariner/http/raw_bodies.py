"""Bodies that are the bytes of a file, passed on while they arrive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import Request
from starlette.requests import ClientDisconnect

from llmariner.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from llmariner.http.forms import run_to_end
from llmariner.http.middleware.stack import CONTENT_ENCODING

__all__ = ["declared_bytes", "read_raw_body"]

_BUFFER_BYTES = 1 << 20


def declared_bytes(request: Request) -> int | None:
    """The number of bytes of the body by its content-length; None where it says nothing."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None


async def read_raw_body(request: Request, write: Callable[[bytes], None], *, max_bytes: int) -> None:
    """Pass the body on to `write`, which runs in threads, one call at a time. A MiB of it is in memory.

    Raises UnsupportedMedia for a compressed body, BodyTooLarge, InvalidRequest for one that ends early, and as `write`.
    """
    # As for forms: a few kilobytes would cost the work of gigabytes.
    if CONTENT_ENCODING in request.scope:
        raise UnsupportedMedia(
            "The body is stored as it is: send it without 'content-encoding'. The file may be a compressed one.",
            headers={"accept-encoding": "identity"},
        )
    declared, received, buffer = declared_bytes(request), 0, bytearray()
    if (declared or 0) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async for part in request.stream():
            received += len(part)
            if received > max_bytes:
                raise _too_large(max_bytes)
            buffer += part
            if len(buffer) >= _BUFFER_BYTES:
                await run_to_end(partial(write, bytes(buffer)))
                buffer = bytearray()
    except ClientDisconnect as disconnect:
        raise _ends_early() from disconnect
    if declared not in (None, received):
        raise _ends_early()
    if buffer:
        await run_to_end(partial(write, bytes(buffer)))


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The file has more than {max_bytes} bytes, the maximum here; nothing was stored.")


def _ends_early() -> InvalidRequest:
    return InvalidRequest("The body ends before its last byte; nothing was stored. Send it again.", code="invalid_body")
