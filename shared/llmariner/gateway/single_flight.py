"""Concurrent calls for the same key share one call and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["SingleFlight"]

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls in flight, by key. A call continues when the tasks that wait for it are canceled.

    `generation` rises with every `invalidate`: a result that was requested in an earlier generation may be stale.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._in_flight: dict[Hashable, asyncio.Task[T]] = {}

    async def do(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `call`, or of the call in flight for this key. Raises what that call raises."""
        task = self._in_flight.get(key)
        if task is None:
            task = self._in_flight[key] = asyncio.create_task(call())
            task.add_done_callback(lambda done: self._on_done(key, done))
        return await asyncio.shield(task)

    def invalidate(self) -> None:
        """Something changed: later calls do not share results that were requested before."""
        self.generation += 1
        self._in_flight.clear()

    def _on_done(self, key: Hashable, task: asyncio.Task[T]) -> None:
        if self._in_flight.get(key) is task:
            del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it when no task waits any more
