"""Batches of many processes, recorded together: a transaction of the ledger costs about as much for one of them as for all.

Each batch is answered when it is in the database, and not before: who gave it away keeps it until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmariner.errors import Unavailable

__all__ = ["Gathering"]

_MOST = 1000
"""Events that are enough for a transaction."""

_SECONDS = 2.0
Batch = Sequence[Mapping[str, Any]]
_Waiting = tuple[Batch, "asyncio.Future[None]"]


class Gathering:
    """Calls `record`, in a thread, with what came within two seconds, or sooner when that is much."""

    def __init__(self, record: Callable[[Batch], object], *, seconds: float = _SECONDS) -> None:
        self._record = record
        self._seconds = seconds
        self._waiting: list[_Waiting] = []
        self._under_way: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()

    async def record(self, batch: Batch) -> None:
        """Returns when the batch is recorded. What `record` raises for it alone; Unavailable for all."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, answer))
        if self._writing is None:
            self._enough = asyncio.Event()
            self._writing = asyncio.create_task(self._write())
        if sum(len(each) for each, _ in self._waiting) >= _MOST:
            self._enough.set()
        await answer

    def models(self) -> set[tuple[str, str | None]]:
        """The models that something was told of which is not recorded yet, each with the project that asked."""
        events = (event for batch, _ in (*self._under_way, *self._waiting) for event in batch)
        told = (event for event in events if isinstance(event, Mapping) and "model" in event)
        return {(event["model"], event.get("project_id")) for event in told}

    async def _write(self) -> None:
        try:
            while self._waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self._seconds)
                self._enough.clear()
                self._under_way, self._waiting = self._waiting, []
                await self._settle(self._under_way)
        finally:
            self._writing, self._under_way = None, []

    async def _settle(self, together: Sequence[_Waiting]) -> None:
        try:
            await asyncio.to_thread(self._record, [event for batch, _ in together for event in batch])
        except Exception as error:  # each caller is told, and most of them come again
            if len(together) == 1 or isinstance(error, Unavailable):
                _answer(together, error)
            else:
                for one in together:  # what is wrong with one must not hold up the others
                    await self._settle([one])
        else:
            _answer(together, None)


def _answer(together: Sequence[_Waiting], error: Exception | None) -> None:
    for _, answer in together:
        if answer.done():  # its caller is gone
            continue
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
