"""Two copies of bytes, one per direction of an upgraded connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

__all__ = ["run_both"]

_END_SECONDS = 5.0


async def run_both(answers: Awaitable[None], questions: Awaitable[None]) -> None:
    """Run both to their ends. When one fails, the other is canceled and the failure is raised.

    `answers` copies what the serving side sends: when it has ended, the client has `_END_SECONDS` to end as well. A client
    that ended is answered without a limit.
    """
    serving, asking = asyncio.ensure_future(answers), asyncio.ensure_future(questions)
    try:
        done, _ = await asyncio.wait((serving, asking), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if asking in done:
            await serving
        else:
            await asyncio.wait([asking], timeout=_END_SECONDS)
            if asking.done():
                asking.result()
    finally:
        for task in (serving, asking):
            task.cancel()
        await asyncio.gather(serving, asking, return_exceptions=True)
