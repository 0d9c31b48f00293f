"""Background loops that are restarted when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["supervise"]

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0


async def supervise(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop until canceled. One that raises is logged and restarted after a second."""
    while True:
        try:
            await run()
        except Exception:
            _log.exception("%s failed, and is restarted", run.__qualname__)
        await asyncio.sleep(_PAUSE_SECONDS)
