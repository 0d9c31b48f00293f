"""Records batches of many gateway instances in one transaction, which costs about as much for one batch as for all.

A batch is acknowledged once it is committed, not before; its sender keeps it until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmariner.errors import Unavailable

__all__ = ["BatchWriter"]

_FULL_BATCH = 1000
"""Number of pending events at which a transaction starts without further delay."""

_MAX_DELAY_SECONDS = 2.0
Batch = Sequence[Mapping[str, Any]]
_Submission = tuple[Batch, "asyncio.Future[None]"]


class BatchWriter:
    """Calls `record` in a thread with the events of up to `seconds`, or sooner when `_FULL_BATCH` events are pending."""

    def __init__(self, record: Callable[[Batch], object], *, seconds: float = _MAX_DELAY_SECONDS) -> None:
        self._record = record
        self._seconds = seconds
        self._pending: list[_Submission] = []
        self._in_flight: list[_Submission] = []
        self._writer: asyncio.Task[None] | None = None
        self._full = asyncio.Event()

    async def record(self, batch: Batch) -> None:
        """Return when the batch is committed. Raises what `record` raises for this batch alone; Unavailable concerns all."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((batch, future))
        if self._writer is None:
            self._full = asyncio.Event()
            self._writer = asyncio.create_task(self._write())
        if sum(len(each) for each, _ in self._pending) >= _FULL_BATCH:
            self._full.set()
        await future

    def pending_models(self) -> set[tuple[str, str | None]]:
        """(model, project id) of the events that are pending or in flight: the ledger does not have them yet."""
        events = (event for batch, _ in (*self._in_flight, *self._pending) for event in batch)
        named = (event for event in events if isinstance(event, Mapping) and "model" in event)
        return {(event["model"], event.get("project_id")) for event in named}

    async def _write(self) -> None:
        try:
            while self._pending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._seconds)
                self._full.clear()
                self._in_flight, self._pending = self._pending, []
                await self._commit(self._in_flight)
        finally:
            self._writer, self._in_flight = None, []

    async def _commit(self, submissions: Sequence[_Submission]) -> None:
        try:
            await asyncio.to_thread(self._record, [event for batch, _ in submissions for event in batch])
        except Exception as error:  # every sender gets the error, and most senders retry
            if len(submissions) == 1 or isinstance(error, Unavailable):
                _resolve(submissions, error)
            else:
                for one in submissions:  # an invalid batch must not fail the others
                    await self._commit([one])
        else:
            _resolve(submissions, None)


def _resolve(submissions: Sequence[_Submission], error: Exception | None) -> None:
    for _, future in submissions:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
