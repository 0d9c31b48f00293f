"""A jobs port that runs nothing: jobs stay queued until they are canceled or removed."""

from __future__ import annotations

from collections.abc import Callable

from llmariner.platform.jobs import Job, JobStatus, LogPart, Phase

__all__ = ["QueuedJobs"]


class QueuedJobs:
    """See `platform.jobs.Jobs`. `problem` may be set; `logs` has the output by id."""

    def __init__(self) -> None:
        self.problem = ""
        self.submitted: dict[str, Job] = {}
        self.canceled: set[str] = set()
        self.logs: dict[str, bytes] = {}

    @property
    def environment(self) -> str:
        return "Nowhere."

    def submit(self, job: Job) -> JobStatus:
        self.submitted[job.id] = job
        status = self.status(job.id)
        assert status is not None
        return status

    def status(self, job_id: str) -> JobStatus | None:
        if job_id in self.canceled:
            return JobStatus(Phase.CANCELED, 2.0)
        if job_id not in self.submitted:
            return None
        return JobStatus(Phase.QUEUED, 1.0, place=list(self.submitted).index(job_id) + 1, reason="Nothing runs.")

    def cancel(self, job_id: str) -> None:
        self.canceled.add(job_id)

    def remove(self, job_id: str) -> None:
        self.submitted.pop(job_id, None)
        self.canceled.discard(job_id)

    def log(self, job_id: str, start: int = 0) -> LogPart:
        data = self.logs.get(job_id, b"")[start : start + 4]
        return LogPart(data, start, start + len(data))

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """Nothing changes by itself."""
