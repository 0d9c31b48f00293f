"""Reads what a server sends: bodies of bounded size, and JSON of bounded depth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

__all__ = ["BodyTooLarge", "parse_json", "read_body", "read_error_body"]

_MAX_BYTES = 256 * 1024 * 1024
"""Of a document, after decompression: a thousand bytes of gzip can hold a million."""
_MAX_ERROR_BYTES = 1024 * 1024


class BodyTooLarge(Exception):
    """A document is larger than `llma` reads."""


def read_body(response: httpx2.Response, max_bytes: int | None = None) -> bytes:
    """The body of a streamed response. Raises BodyTooLarge. `max_bytes`: whole MiB; None for what a platform may send."""
    received, limit = bytearray(), _MAX_BYTES if max_bytes is None else max_bytes
    for chunk in response.iter_bytes():
        received += chunk
        if len(received) > limit:
            raise BodyTooLarge(f"a document of more than {limit >> 20} MiB")
    return bytes(received)


def read_error_body(response: httpx2.Response) -> bytes:
    """The first MiB of the body of a streamed response."""
    received = bytearray()
    for chunk in response.iter_bytes():
        received += chunk
        if len(received) > _MAX_ERROR_BYTES:
            break
    return bytes(received[:_MAX_ERROR_BYTES])


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for one that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
