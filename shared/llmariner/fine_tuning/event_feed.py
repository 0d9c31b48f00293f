"""New events of jobs for those who follow them: one reader of the database in a process, however many follow.

Followers read what was there before from the database, page by page, and what is new from memory. A follower that is
slower than the memory is long reads the database again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from llmariner.fine_tuning.history import JobEvent, JobHistory

__all__ = ["EventFeed"]

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_PAGE = 200
_KEPT = 1000
"""Events of one job in memory."""


@dataclass
class _Followed:
    """A job that somebody follows. `recent`: all of its events between `floor`, exclusively, and `newest`.

    `floor` None: the job has not been read yet. `ended`: no event comes after `newest`. `changed`: set, and replaced, when
    any of these changes.
    """

    followers: int = 0
    floor: str | None = None
    newest: str = ""
    ended: bool = False
    recent: list[JobEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, events: list[JobEvent]) -> None:
        """Add events later than all before."""
        self.recent += events
        self.newest = events[-1].id
        if len(self.recent) > _KEPT:
            self.floor = self.recent[-_KEPT - 1].id
            self.recent = self.recent[-_KEPT:]


class EventFeed:
    """The feed of one process; all calls belong to one event loop."""

    def __init__(self, history: JobHistory) -> None:
        self._history = history
        self._jobs: dict[str, _Followed] = {}
        self._reader: asyncio.Task[None] | None = None

    async def follow(self, job_id: str, after: str | None, heartbeat_seconds: float) -> AsyncGenerator[list[JobEvent]]:
        """The events of a job later than the event `after`, oldest first, in parts, until it ends or is deleted.

        A part without events: nothing happened for so many seconds. The caller has checked that it may see the job.
        """
        followed = self._jobs.setdefault(job_id, _Followed())
        followed.followers += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        cursor = after or ""
        try:
            while True:
                changed = followed.changed
                if events := await self._later(job_id, followed, cursor):
                    cursor = events[-1].id
                    yield events
                elif followed.ended and cursor >= followed.newest:
                    return
                elif followed.floor is None or cursor >= followed.newest:
                    try:
                        await asyncio.wait_for(changed.wait(), heartbeat_seconds)
                    except TimeoutError:
                        yield []
        finally:
            followed.followers -= 1
            if not followed.followers:
                self._jobs.pop(job_id, None)

    async def _later(self, job_id: str, followed: _Followed, cursor: str) -> list[JobEvent]:
        if followed.floor is not None and cursor >= followed.floor:
            return [event for event in followed.recent if event.id > cursor]
        return await asyncio.to_thread(self._history.later_events, job_id, cursor, _PAGE)

    async def _read(self) -> None:
        """Look for new events of all followed jobs until nobody follows any."""
        while self._jobs:
            try:
                await self._read_once()
            except Exception:  # such as a database that is away; the followers wait
                _log.warning("the events of followed jobs were not read", exc_info=True)
            await asyncio.sleep(_POLL_SECONDS)

    async def _read_once(self) -> None:
        followed_jobs = dict(self._jobs)
        newest = await asyncio.to_thread(self._history.newest_events, list(followed_jobs))
        for job_id, followed in followed_jobs.items():
            is_final, last = newest.get(job_id, (True, ""))
            if followed.floor is None:
                followed.floor = followed.newest = last
            elif last > followed.newest:
                followed.add(await asyncio.to_thread(self._history.later_events, job_id, followed.newest, _PAGE))
            elif followed.ended == is_final:
                continue
            followed.ended = is_final and followed.newest >= last
            changed, followed.changed = followed.changed, asyncio.Event()
            changed.set()
