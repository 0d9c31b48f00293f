"""The queue of jobs: brief ones and the others in two lines, in each of which projects take turns.

Not safe in several threads.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from llmariner.platform.jobs.local_processes.job_folder import Restarts

__all__ = ["JobQueue", "Waiting", "waiting_after"]

_MAX_BACKOFF_SECONDS = 360.0
"""As of Kubernetes' Jobs."""


@dataclass
class Waiting:
    """A job that waits. `since`: in Unix seconds. `reason`: why, once it is known.

    `not_before`: when it may start, in monotonic time.
    """

    project_id: str
    since: float = field(default_factory=time.time)
    reason: str = ""
    not_before: float = 0.0
    brief: bool = False


class JobQueue:
    """Waiting jobs by id."""

    def __init__(self) -> None:
        self._jobs: dict[str, Waiting] = {}
        self._last_start: dict[tuple[str, bool], float] = {}
        """When a project had its last turn in a line: (project id, whether of brief jobs), in monotonic time."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Waiting | None:
        """A job that waits."""
        return self._jobs.get(job_id)

    def add(self, job_id: str, waiting: Waiting) -> None:
        """Add a job, or replace it."""
        self._jobs[job_id] = waiting

    def remove(self, job_id: str) -> None:
        """Remove a job, if it waits."""
        self._jobs.pop(job_id, None)

    def by_project(self) -> Counter[str]:
        """The number of waiting jobs of each project. Safe in any thread: the list is copied in one step."""
        return Counter(each.project_id for each in list(self._jobs.values()))

    def note_start(self, job_id: str) -> None:
        """Remove a job that starts: its project has had its turn in that line."""
        started = self._jobs.pop(job_id)
        waiting = {(each.project_id, each.brief) for each in self._jobs.values()}
        self._last_start = {each: at for each, at in self._last_start.items() if each in waiting}
        self._last_start[started.project_id, started.brief] = time.monotonic()

    def hold_back(self, job_id: str, reason: str, *, seconds: float) -> None:
        """Let a job wait so long, and those of its project in the same line, which need as much as it does.

        Trying each would take time with their number.
        """
        held, now = self._jobs[job_id], time.monotonic()
        for each in self._jobs.values():
            if (each.project_id, each.brief) == (held.project_id, held.brief) and each.not_before <= now:
                each.reason, each.not_before = reason, now + seconds

    def line(self, *, brief: bool) -> list[str]:
        """The jobs of a line in the order of their start.

        Projects take turns, those first that have not had one for longest, each with its oldest job.
        """
        before: Counter[str] = Counter()
        turns = {}
        for job_id in sorted(each for each, waiting in self._jobs.items() if waiting.brief is brief):
            project = self._jobs[job_id].project_id
            turns[job_id] = (before[project], self._last_start.get((project, brief), 0.0), job_id)
            before[project] += 1
        return sorted(turns, key=lambda job_id: turns[job_id])

    def first(self, *, brief: bool) -> str | None:
        """The job of a line whose turn it is; None where none may start yet."""
        now = time.monotonic()
        return next((job_id for job_id in self.line(brief=brief) if self._jobs[job_id].not_before <= now), None)


def waiting_after(restarts: Restarts, project_id: str, *, backoff_seconds: float) -> Waiting:
    """A job that failed and waits to be started again: so long after one failure, twice as long after each further one."""
    seconds = min(_MAX_BACKOFF_SECONDS, backoff_seconds * 2 ** (restarts.count - 1))
    reason = f"{restarts.reason} It is started again after {seconds:g} s."
    return Waiting(project_id, reason=reason, not_before=time.monotonic() + seconds)
