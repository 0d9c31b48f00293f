"""Bodies that are the bytes of a file, passed on while they arrive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import Request

from llmariner.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from llmariner.http.forms import feed_body, run_to_end
from llmariner.http.middleware.stack import CONTENT_ENCODING

__all__ = ["declared_bytes", "read_raw_body"]


def declared_bytes(request: Request) -> int | None:
    """The number of bytes of the body by its content-length; None where it says nothing."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None


async def read_raw_body(request: Request, write: Callable[[bytes], None], *, max_bytes: int) -> None:
    """Pass the body on to `write`, which runs in threads, one call at a time. At most two MiB of it are in memory.

    Raises UnsupportedMedia for a compressed body, BodyTooLarge, InvalidRequest for one that ends early, and as `write`.
    """
    # As for forms: a few kilobytes would cost the work of gigabytes.
    if CONTENT_ENCODING in request.scope:
        raise UnsupportedMedia(
            "The body is stored as it is: send it without 'content-encoding'. The file may be a compressed one.",
            headers={"accept-encoding": "identity"},
        )
    received = 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)
        write(data)

    declared, too_large = declared_bytes(request), partial(_too_large, max_bytes)
    if (declared or 0) > max_bytes:
        raise too_large()
    rest = await feed_body(request, count, max_bytes=max_bytes, too_large=too_large, ends_early=_ends_early)
    if declared not in (None, received + len(rest)):
        raise _ends_early()
    if rest:
        await run_to_end(partial(count, rest))


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The file has more than {max_bytes} bytes, the maximum here; nothing was stored.")


def _ends_early() -> InvalidRequest:
    return InvalidRequest("The body ends before its last byte; nothing was stored. Send it again.", code="invalid_body")
