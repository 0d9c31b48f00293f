"""Server-sent events of lists that grow: each is one object; comments show that the connection lives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from llmariner.errors import PlatformError

__all__ = ["MAX_SECONDS", "event_stream"]

MAX_SECONDS = 3500.0
"""A stream ends then without `[DONE]`; its reader continues after the last event."""
_CHECK_SECONDS = 10.0
"""How often a caller who follows must still be allowed to."""


def event_stream(parts: AsyncGenerator[Sequence[dict[str, Any]]], allowed: Callable[[], None]) -> StreamingResponse:
    """A response with the objects of `parts`, each with its `id`; a part without any is a heartbeat.

    It ends with `[DONE]` where `parts` end. `allowed` blocks, and raises PlatformError where the caller may not read on:
    the response has begun, so the error is an event in it.
    """
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_texts(parts, allowed), media_type="text/event-stream", headers=headers)


async def _texts(parts: AsyncGenerator[Sequence[dict[str, Any]]], allowed: Callable[[], None]) -> AsyncIterator[str]:
    began = checked = time.monotonic()
    yield ": open\n\n"
    try:
        async with aclosing(parts):
            async for part in parts:
                if (now := time.monotonic()) - began > MAX_SECONDS:
                    return
                if now - checked > _CHECK_SECONDS:
                    await asyncio.to_thread(allowed)
                    checked = now
                yield "".join(f"id: {each['id']}\ndata: {json.dumps(each)}\n\n" for each in part) or ": heartbeat\n\n"
    except PlatformError as error:
        yield f"data: {json.dumps(error.body())}\n\n"
        return
    yield "data: [DONE]\n\n"
