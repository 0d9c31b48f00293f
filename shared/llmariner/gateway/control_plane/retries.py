"""Requests wait for a control plane that is not reachable yet, as that of an installation that starts from zero."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llmariner.errors import Unavailable

__all__ = ["ControlPlaneUnreachable", "when_reachable"]

T = TypeVar("T")
_PAUSE_SECONDS = 0.5


class ControlPlaneUnreachable(Unavailable):
    """No process of the control plane answered: an operation may be repeated, and is likely to succeed soon."""


async def when_reachable(call: Callable[[], Awaitable[T]], deadline: float, is_unwanted: Callable[[], bool]) -> T:
    """What `call` returns, repeated while it raises ControlPlaneUnreachable.

    It is not repeated after `deadline` (`perf_counter`), nor for a client that has disconnected: `is_unwanted`.
    """
    while True:
        try:
            return await call()
        except ControlPlaneUnreachable:
            if time.perf_counter() + _PAUSE_SECONDS > deadline or is_unwanted():
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
