"""Tasks that must go on for as long as the process does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["supervised"]

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0


async def supervised(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop until cancelled; one that fails is said so in the log, and begins anew after a second."""
    while True:
        try:
            await run()
        except Exception:
            _log.exception("%s failed, and begins anew", run.__qualname__)
        await asyncio.sleep(_PAUSE_SECONDS)
