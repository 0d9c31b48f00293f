"""The output of batch jobs as it is written, for callers who follow it.

One task watches a job for all of its followers in this process. An idle follower costs no read of the output or the
database, besides a check of its rights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Protocol

from llmariner.errors import PlatformError
from llmariner.http.followers import FollowerPlaces, wait_for_change
from llmariner.platform.jobs import LogPart

__all__ = ["JobOutputs", "OutputWatches", "read_on"]

_LOOK_SECONDS = 0.5
_MAX_FOLLOW_SECONDS = 3500.0
"""Less than the time limit of the function."""
_CHECK_SECONDS = 10.0
"""How often a caller who follows an output must still be allowed to."""


class JobOutputs(Protocol):
    """The part of `batch_jobs.BatchJobs` that this uses. Both methods block."""

    def output(self, job_id: str, start: int) -> LogPart:
        """Some output from byte `start` on."""

    def output_has_ended(self, project_id: str, job_id: str) -> bool:
        """Whether a job writes no more. NotFound."""


class _Watch:
    """What is known of a job's output. `end`: of what was seen of it."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.has_ended = False
        self.followers = 0
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class OutputWatches:
    """Watches of one process, used in one event loop."""

    def __init__(self, jobs: Callable[[], JobOutputs]) -> None:
        self._jobs = jobs
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._places = FollowerPlaces("outputs of jobs", "Read it without 'follow'")

    def check_room(self, project_id: str) -> None:
        """Hold a place for a caller who is about to follow. RateLimited where all, or all of a project, are taken."""
        self._places.hold(project_id)

    async def follow(
        self, project_id: str, job_id: str, start: int, allowed: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        """The output from byte `start` on, until the job ends or is deleted, or `allowed` raises: the response has begun."""
        watch = self._join(project_id, job_id, start)
        read = partial(self._jobs().output, job_id)
        began = checked = time.monotonic()
        try:
            while time.monotonic() - began < _MAX_FOLLOW_SECONDS:
                changed, had_ended = watch.changed, watch.has_ended
                part = await asyncio.to_thread(read, start)
                start = part.end
                if part.data:
                    yield part.data
                elif had_ended:
                    return
                else:
                    await wait_for_change(changed, _CHECK_SECONDS)
                if time.monotonic() - checked > _CHECK_SECONDS:
                    await asyncio.to_thread(allowed)
                    checked = time.monotonic()
        except PlatformError:
            return
        finally:
            self._leave((project_id, job_id), watch)

    def _join(self, project_id: str, job_id: str, start: int) -> _Watch:
        self._places.enter(project_id)
        key = (project_id, job_id)
        if (watch := self._watches.get(key)) is None:
            watch = self._watches[key] = _Watch(start)
            watch.task = asyncio.create_task(self._look(key, watch))
        # An earlier follower may wait for bytes that are not written yet: the watch tells of those before them too.
        watch.end = min(watch.end, start)
        watch.followers += 1
        return watch

    def _leave(self, key: tuple[str, str], watch: _Watch) -> None:
        self._places.leave(key[0])
        watch.followers -= 1
        if not watch.followers and watch.task is not None:
            watch.task.cancel()
            del self._watches[key]

    async def _look(self, key: tuple[str, str], watch: _Watch) -> None:
        """Note what changes, until the job has ended. Ends at an error, which the followers then see themselves."""
        try:
            while not watch.has_ended:
                ended = await asyncio.to_thread(self._jobs().output_has_ended, *key)
                begin = watch.end
                part = await asyncio.to_thread(self._jobs().output, key[1], begin)
                if part.end != begin or ended:
                    watch.has_ended = ended
                    if watch.end == begin:  # else somebody joined meanwhile who reads from an earlier byte on
                        watch.end = part.end
                    watch.changed.set()
                    watch.changed = asyncio.Event()
                if not part.data:
                    await asyncio.sleep(_LOOK_SECONDS)
        except PlatformError:
            return
        finally:
            watch.has_ended = True
            watch.changed.set()


async def read_on(part: LogPart, read: Callable[[int], LogPart]) -> AsyncGenerator[bytes, None]:
    """The output that there is now, from a part on."""
    while part.data:
        yield part.data
        part = await asyncio.to_thread(read, part.end)
