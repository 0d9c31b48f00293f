"""Responses with the content of a file: ranges and conditions (RFC 9110), and headers that keep it from being executed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response

from llmariner.errors import RangeNotSatisfiable
from llmariner.http.forms import run_to_end
from llmariner.http.middleware.stack import HEAD_REQUEST

__all__ = ["attachment", "content_response"]

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile(r'[\x00-\x1f"\\\x7f%]')
Read = Callable[[int, int | None], Iterator[bytes]]


def content_response(
    request: Request, *, size_bytes: int, entity_tag: str, content_type: str, file_name: str, read: Read
) -> Response:
    """The response for a GET of content. `entity_tag`, in quotes, differs for other content.

    `read` takes the start and the number of bytes; it blocks.

    Raises RangeNotSatisfiable. More than one range is answered with the whole content, as RFC 9110, 14.2 allows.
    """
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private",
        "content-disposition": attachment(file_name),
        # A browser that shows the content runs no script of it, and takes it for nothing else than it is said to be.
        "content-security-policy": "sandbox; default-src 'none'",
        "content-type": content_type,
        "etag": entity_tag,
        "x-content-type-options": "nosniff",
    }
    if _is_listed(request.headers.get("if-none-match"), entity_tag):
        kept = {name: headers[name] for name in ("cache-control", "etag")}
        return Response(status_code=304, headers=kept)
    wanted = _requested_range(request, size_bytes, entity_tag)
    start, end = wanted or (0, size_bytes)
    headers["content-length"] = str(end - start)
    if wanted:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    status = 206 if wanted else 200
    if end == start or HEAD_REQUEST in request.scope:
        return Response(status_code=status, headers=headers)
    parts = read(start, None if wanted is None else end - start)
    return _ContentResponse(parts, status, headers)


class _ContentResponse(Response):
    """Sends parts that a thread reads; the next one is read while one is sent. It ends when the client disconnects."""

    def __init__(self, parts: Iterator[bytes], status: int, headers: dict[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._parts = parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        left = asyncio.ensure_future(_until_disconnect(receive))
        reading = self._read()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (part := await reading) and not left.done():
                reading = self._read()
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if not part:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # one that nobody waits for any more would be logged as never retrieved
            if close := getattr(self._parts, "close", None):
                await run_to_end(close)

    def _read(self) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(asyncio.to_thread(partial(next, self._parts, b"")))


async def _until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _requested_range(request: Request, size_bytes: int, entity_tag: str) -> tuple[int, int] | None:
    """Start and end of the requested range; None: the whole content."""
    text, condition = request.headers.get("range"), request.headers.get("if-range")
    match = _RANGE.fullmatch(text or "")
    if match is None or match[1] == match[2] == "" or (condition is not None and condition.strip() != entity_tag):
        return None
    if match[1] == "":
        start, end = max(0, size_bytes - int(match[2])), size_bytes
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
        if match[2] and int(match[2]) < start:
            return None  # invalid, and so ignored
    if start >= end:
        raise RangeNotSatisfiable(size_bytes)
    return start, end


def _is_listed(header: str | None, entity_tag: str) -> bool:
    """Whether If-None-Match lists the tag, by weak comparison."""
    listed = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return "*" in listed or entity_tag in listed


def attachment(file_name: str) -> str:
    """A Content-Disposition (RFC 6266): the name in ASCII for old clients, and as it is."""
    plain = _QUOTED.sub("_", file_name.encode("ascii", "replace").decode().replace("?", "_"))
    extended = "" if plain == file_name else f"; filename*=UTF-8''{quote(file_name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
