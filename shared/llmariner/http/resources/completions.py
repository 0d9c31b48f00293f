"""Completions of uploads in threads of their own, shared fairly by the projects."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from llmariner.errors import PlatformError, Unavailable

__all__ = ["Completions"]

# A completion takes up to minutes: other work must not wait for a thread behind it.
_THREADS = 4
_PROJECT_THREADS = 2
_PROJECT_WAITING = 8
_WAITING = 256
Complete = Callable[[], Any]


class Completions:
    """Runs completions: of one project a few at once, and of those that wait the projects' in turn. For one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "completion")
        self._running: Counter[str] = Counter()
        # The first project is the next one.
        self._waiting: dict[str, deque[tuple[Complete, asyncio.Future[Any]]]] = {}

    async def run(self, project_id: str, complete: Complete) -> Any:
        """The result of `complete`, which continues if the caller leaves. Raises Unavailable where too many wait."""
        of_project = len(self._waiting.get(project_id, ()))
        if of_project >= _PROJECT_WAITING or sum(map(len, self._waiting.values())) >= _WAITING:
            whose = "of your project" if of_project >= _PROJECT_WAITING else "here"
            raise Unavailable(
                f"Too many uploads {whose} are being completed. Try again.", headers={"retry-after": "10"}
            )
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, deque()).append((complete, result))
        self._start()
        return await asyncio.shield(result)

    def _start(self) -> None:
        """Start what may run now."""
        for project_id in list(self._waiting):
            if self._running.total() < _THREADS and self._running[project_id] < _PROJECT_THREADS:
                waiting = self._waiting.pop(project_id)
                complete, result = waiting.popleft()
                if waiting:
                    self._waiting[project_id] = waiting
                self._running[project_id] += 1
                running = asyncio.get_running_loop().run_in_executor(self._threads, complete)
                running.add_done_callback(partial(self._end, project_id, result))

    def _end(self, project_id: str, result: asyncio.Future[Any], ended: asyncio.Future[Any]) -> None:
        self._running[project_id] -= 1
        if not self._running[project_id]:
            del self._running[project_id]
        if result.cancelled():
            pass  # the loop is closing
        elif (error := ended.exception()) is not None:
            result.set_exception(error)
            if isinstance(error, PlatformError):
                result.exception()  # of a caller that left, it would be logged as never retrieved
        else:
            result.set_result(ended.result())
        self._start()
