"""Questions that many requests have at the same moment, asked once: what is new is new to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["Asking"]

Answer = TypeVar("Answer")


class Asking(Generic[Answer]):
    """Questions under way. One goes on when those who wait for it leave.

    `turn`: another number whenever something changed: an answer to a question of before may be of what is no more.
    """

    def __init__(self) -> None:
        self.turn = 0
        self._under_way: dict[Hashable, asyncio.Task[Answer]] = {}

    async def once(self, what: Hashable, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer, or what `ask` raises."""
        task = self._under_way.get(what)
        if task is None:
            task = self._under_way[what] = asyncio.create_task(ask())
            task.add_done_callback(lambda ended: self._ended(what, ended))
        return await asyncio.shield(task)

    def anew(self) -> None:
        """Something changed: let nobody wait any more for what was asked before."""
        self.turn += 1
        self._under_way.clear()

    def _ended(self, what: Hashable, task: asyncio.Task[Answer]) -> None:
        if self._under_way.get(what) is task:
            del self._under_way[what]
        if not task.cancelled():
            task.exception()  # heard, though nobody may be left to hear it
