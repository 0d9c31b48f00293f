"""Batch jobs on a jobs port whose jobs do what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.batch_jobs.batch_jobs import BatchJobs
from llmariner.batch_jobs.reconciler import Reconciler
from llmariner.errors import Conflict, Unavailable
from llmariner.files.content import IncomingContent
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files, Finish
from llmariner.files.purposes import Purpose
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.jobs import Execution, Job, Jobs, JobStatus, LogPart, Phase, ResultFile, Results
from llmariner.tenancy.principal import Caller, KeyOwner

from ..stored_files import member_of

__all__ = ["NEW", "BatchJobDesk", "ScriptedJobs", "emit_batch_job_events"]

NEW = NewBatchJob("pytorch-2.1", "sh scripts/run.sh", {"run.sh": b"echo \xff"}, {"LR": "0.1"})


class ScriptedJobs:
    """See `platform.jobs.Jobs`. Tests change `statuses` and `left`, the contents of results.

    `calls` are the changes that were asked for.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.statuses: dict[str, JobStatus] = {}
        self.jobs: dict[str, Job] = {}
        self.calls: list[tuple[str, str]] = []
        self.left: dict[str, dict[str, bytes]] = {}
        self.left_out = ""

    @property
    def environment(self) -> str:
        return "In a test."

    def submit(self, job: Job) -> JobStatus:
        self.calls.append(("submit", job.id))
        self.jobs[job.id] = job
        return self.statuses.setdefault(job.id, JobStatus(Phase.QUEUED, 1.0, place=3, reason="Jobs run before it."))

    def status(self, job_id: str) -> JobStatus | None:
        return self.statuses.get(job_id)

    def cancel(self, job_id: str) -> None:
        self.calls.append(("cancel", job_id))
        status = self.statuses.get(job_id, JobStatus(Phase.QUEUED, 1.0))
        if not status.phase.is_final:
            self.statuses[job_id] = JobStatus(Phase.CANCELED, 9.0, status.started_at)

    def pause(self, job_id: str) -> None:
        self.calls.append(("pause", job_id))
        status = self.statuses.get(job_id)
        starts_once = job_id not in self.jobs or self.jobs[job_id].backoff_limit == 0
        if status is not None and not status.phase.is_final and not (status.phase is Phase.RUNNING and starts_once):
            self.statuses[job_id] = JobStatus(Phase.PAUSED, 8.0, restarts=status.restarts)

    def resume(self, job_id: str) -> None:
        self.calls.append(("resume", job_id))
        status = self.statuses.get(job_id)
        if status is not None and status.phase is Phase.PAUSED:
            self.statuses[job_id] = JobStatus(Phase.QUEUED, 9.0, restarts=status.restarts)

    def exec(self, job_id: str, argv: Sequence[str], stdin: bytes = b"") -> Execution:
        raise Conflict(f"The job '{job_id}' does not run.", code="job_not_running")

    def remove(self, job_id: str) -> None:
        self.calls.append(("remove", job_id))
        self.statuses.pop(job_id, None)

    def log(self, job_id: str, start: int = 0) -> LogPart:
        return LogPart(b"", start, start)

    def results(self, job_id: str) -> Results:
        files = tuple(ResultFile(name, len(data)) for name, data in sorted(self.left.get(job_id, {}).items()))
        return Results(files, self.left_out)

    def read_result(self, job_id: str, name: str) -> Iterator[bytes]:
        yield self.left[job_id][name]

    def delete_results(self, job_id: str) -> None:
        self.left.pop(job_id, None)

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """Nothing changes by itself."""

    def run(self, job_id: str) -> None:
        self.statuses[job_id] = JobStatus(Phase.RUNNING, 5.0, 5.0)

    def end(self, job_id: str, phase: Phase, code: str = "", reason: str = "") -> None:
        self.statuses[job_id] = JobStatus(phase, 7.0, 5.0, code=code, reason=reason)


class FilesOfTests:
    """See `batch_jobs.reconciler.ProjectFiles`. Tests put files into `found`, and set the `store` of results."""

    def __init__(self) -> None:
        self.found: dict[str, File] = {}
        self.store: Files | None = None

    def get_many(self, project_id: str, file_ids: Iterable[str]) -> dict[str, File]:
        return {each: self.found[each] for each in file_ids if each in self.found}

    def receive(
        self, owner: KeyOwner, *, purpose: Purpose | None, size_bytes: int, limit_bytes: int
    ) -> IncomingContent:
        assert self.store is not None
        return self.store.receive(owner, purpose=purpose, size_bytes=size_bytes, limit_bytes=limit_bytes)

    def save(self, owner: KeyOwner, new: NewFile, content: IncomingContent, finish: Finish) -> File:
        assert self.store is not None
        return self.store.save(owner, new, content, finish)

    def delete(self, actor: Caller, file_id: str) -> None:
        assert self.store is not None
        self.store.delete(actor, file_id)


class BatchJobDesk:
    """Batch jobs of one project."""

    def __init__(self, database: Database, owner: KeyOwner, **settings: Any) -> None:
        self.database = database
        self.caller = member_of(owner)
        self.project_id = owner.project_id
        self.port: Jobs | None
        self.scripted = ScriptedJobs()
        self.port = self.scripted
        self.files = FilesOfTests()
        self.jobs = BatchJobs(database, replace(JobSettings(), **settings), self._port)
        self.reconciler = Reconciler(database, self._port, lambda: self.files)
        self.database, self.settings = database, replace(JobSettings(), **settings)

    def _port(self) -> Jobs:
        if self.port is None:
            raise Unavailable("No jobs run here.", code="no_job_runner")
        return self.port

    def create(self, **fields: Any) -> str:
        """The id of a new job."""
        return self.jobs.create(self.caller, replace(NEW, **fields)).id

    def reconciled(self, job_id: str) -> Any:
        """The job after a reconciliation."""
        self.reconciler.reconcile(job_id)
        return self.jobs.get(self.project_id, job_id)


def emit_batch_job_events(database: Database, owner: KeyOwner) -> None:
    """Make every event of batch jobs happen."""
    desk = BatchJobDesk(database, owner)
    ids = [desk.create() for _ in range(3)]
    for job_id, phase in zip(ids, (Phase.FAILED, Phase.SUCCEEDED, Phase.CANCELED), strict=True):
        desk.reconciler.reconcile(job_id)
        desk.scripted.run(job_id)
        desk.reconciler.reconcile(job_id)
        if phase is Phase.CANCELED:
            desk.jobs.cancel(desk.caller, job_id)
        else:
            desk.scripted.end(job_id, phase, "exit_code" if phase is Phase.FAILED else "", "It ended with exit code 3.")
        desk.reconciler.reconcile(job_id)
    desk.jobs.delete(desk.caller, ids[0])
    again = desk.create(backoff_limit=1)
    desk.reconciler.reconcile(again)
    desk.scripted.statuses[again] = JobStatus(Phase.QUEUED, 6.0, code="exit_code", reason="It failed.", restarts=1)
    desk.reconciler.reconcile(again)
    desk.jobs.pause(desk.caller, again)
    desk.reconciler.reconcile(again)
    desk.jobs.resume(desk.caller, again)
