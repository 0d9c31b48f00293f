"""The jobs, notebooks and engines of a project on this machine, as pods: their states, and the output of what has some."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, select

from llmariner.batch_jobs.batch_job import BatchJob
from llmariner.errors import InvalidRequest, NotFound
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.notebooks.notebook import Notebook
from llmariner.notebooks.notebook import Status as NotebookStatus
from llmariner.platform.database import Database
from llmariner.platform.jobs import Jobs, LogPart, Phase
from llmariner.platform.serving import Phase as EnginePhase
from llmariner.platform.serving import served_name
from llmariner.sessions.machine.engines import MachineEngine, ProjectEngines, pod_name

if TYPE_CHECKING:
    from llmariner.batch_jobs.batch_jobs import BatchJobs
    from llmariner.notebooks.notebooks import Notebooks

__all__ = ["BATCH_JOB", "ENGINE", "FINE_TUNING_JOB", "NOTEBOOK", "SCOPES", "MachinePod", "MachinePods"]

BATCH_JOB, FINE_TUNING_JOB, NOTEBOOK, ENGINE = "batch-job", "fine-tuning-job", "notebook", "engine"
SCOPES = {
    BATCH_JOB: "api.batch.jobs.read",
    FINE_TUNING_JOB: "api.fine_tuning.jobs.read",
    NOTEBOOK: "api.workspaces.notebooks.read",
    ENGINE: "api.model.read",
}
"""What a caller needs for the pods of each kind, which are listed in this order."""
_CONTINUE = re.compile(rf"({'|'.join(SCOPES)})\.([A-Za-z0-9_-]{{0,64}})")
_BATCH_PHASES = {Phase.RUNNING: "Running", Phase.SUCCEEDED: "Succeeded", Phase.FAILED: "Failed"}
_BATCH_PHASES[Phase.CANCELED] = "Failed"
_NOTEBOOK_PHASES = {
    NotebookStatus.RUNNING: "Running",
    NotebookStatus.STOPPING: "Running",
    NotebookStatus.STOPPED: "Succeeded",
    NotebookStatus.FAILED: "Failed",
}
_ENGINE_PHASES = {EnginePhase.QUEUED: "Pending", EnginePhase.FAILED: "Failed"}
_TUNING_COLUMNS = (
    *(fine_tuning_jobs.c.id, fine_tuning_jobs.c.attempt, fine_tuning_jobs.c.status, fine_tuning_jobs.c.created_at),
    *(fine_tuning_jobs.c.started_at, fine_tuning_jobs.c.finished_at),
)


@dataclass(frozen=True)
class MachinePod:
    """A job, a notebook or an engine as a pod. Times are Unix seconds; `phase` is Kubernetes'.

    `job_id`: what has that pod; empty: no job.
    """

    name: str
    kind: str
    job_id: str
    image: str
    phase: str
    reason: str
    message: str
    restarts: int
    created_at: int
    started_at: float | None
    finished_at: float | None
    title: str = ""
    """The name that its owner gave it."""
    ready: bool = True
    """Where it runs: whether it takes requests."""

    @property
    def changed_at(self) -> float:
        """When it changed last, as far as its times tell."""
        return max(self.created_at, self.started_at or 0.0, self.finished_at or 0.0)


class MachinePods:
    """All methods block. `jobs`: what runs the processes, or raises Unavailable."""

    def __init__(
        self,
        database: Database,
        batch_jobs: BatchJobs,
        notebooks: Notebooks,
        jobs: Callable[[], Jobs],
        engines: ProjectEngines,
    ) -> None:
        self._database = database
        self._batch_jobs = batch_jobs
        self._notebooks = notebooks
        self._jobs = jobs
        self._engines = engines

    def page(self, project_id: str, kinds: Collection[str], *, after: str, limit: int) -> tuple[list[MachinePod], str]:
        """Up to `limit` pods of these kinds, the newest of a kind first, and where to continue; empty: there are no more.

        `after`: where an earlier page said to continue; InvalidRequest for another one.
        """
        if after and not _CONTINUE.fullmatch(after):
            raise InvalidRequest("'continue' must be from an earlier page: list the pods again.", param="continue")
        first, _, last = after.partition(".")
        found: list[MachinePod] = []
        names = [kind for kind in SCOPES if kind in kinds]
        for kind in names[names.index(first) :] if first in names else names:
            if len(found) == limit:
                return found, f"{kind}."
            pods, next_ = self._page_of(kind)(project_id, last or None, limit - len(found))
            found += pods
            if next_:
                return found, f"{kind}.{next_}"
            last = ""
        return found, ""

    def newest(self, project_id: str, limit: int) -> dict[str, MachinePod]:
        """The pods of a project by their names, up to `limit` of each kind."""
        pods = [pod for kind in SCOPES for pod in self._page_of(kind)(project_id, None, limit)[0]]
        return {pod.name: pod for pod in pods}

    def get(self, project_id: str, kinds: Collection[str], name: str) -> MachinePod:
        """One pod. NotFound."""
        found: MachinePod | None = None
        if name.startswith("ftjob-"):
            found = self._fine_tuning(project_id, name) if FINE_TUNING_JOB in kinds else None
        elif name.startswith("nb-"):
            found = self._notebook(project_id, name) if NOTEBOOK in kinds else None
        elif name.startswith("engine-"):
            engine = self._engines.get(project_id, name) if ENGINE in kinds else None
            found = _engine_pod(engine) if engine is not None else None
        elif BATCH_JOB in kinds:
            found = self._batch_job(project_id, name)
        if found is None:
            raise NotFound(
                f'pods "{name[:100]}" not found: the pods here are the jobs, notebooks and engines that your project has '
                "on this machine. List them with `kubectl get pods`."
            )
        return found

    def output(self, name: str, start: int) -> LogPart:
        """See `JobOutputs`: for a caller who may read it."""
        if name.startswith("engine-"):
            return self._engines.log(name, start)
        if name.startswith("ftjob-"):
            return self._jobs().log(name, start)
        return self._batch_jobs.output(name, start)

    def output_has_ended(self, project_id: str, name: str) -> bool:
        """See `JobOutputs`."""
        if name.startswith("engine-"):
            engine = self._engines.get(project_id, name)
            return engine is None or engine.ended_at is not None
        if not name.startswith("ftjob-"):
            return self._batch_jobs.output_has_ended(project_id, name)
        status = self._jobs().status(name)
        if status is not None:
            return status.phase.is_final
        return self._fine_tuning(project_id, name) is None  # else it was not submitted yet

    def _page_of(self, kind: str) -> Callable[[str, str | None, int], tuple[list[MachinePod], str | None]]:
        pages = {BATCH_JOB: self._page_of_batch_jobs, FINE_TUNING_JOB: self._page_of_fine_tuning}
        pages |= {NOTEBOOK: self._page_of_notebooks, ENGINE: self._page_of_engines}
        return pages[kind]

    def _page_of_engines(self, project_id: str, after: str | None, limit: int) -> tuple[list[MachinePod], str | None]:
        pods = [_engine_pod(each) for each in self._engines.of(project_id)]
        left = [each for each in pods if after is None or each.name > after]
        return left[:limit], left[limit - 1].name if len(left) > limit else None

    def _page_of_notebooks(self, project_id: str, after: str | None, limit: int) -> tuple[list[MachinePod], str | None]:
        found, more = self._notebooks.page(project_id, after=after, limit=limit)
        return [_notebook_pod(each) for each in found], found[-1].id if more else None

    def _page_of_batch_jobs(
        self, project_id: str, after: str | None, limit: int
    ) -> tuple[list[MachinePod], str | None]:
        found, more = self._batch_jobs.page(project_id, after=after, limit=limit)
        pods = [_batch_pod(job) for job in found if job.cluster_id is None]
        return pods, found[-1].id if more else None

    def _page_of_fine_tuning(
        self, project_id: str, after: str | None, limit: int
    ) -> tuple[list[MachinePod], str | None]:
        query = select(*_TUNING_COLUMNS).where(*_with_process(project_id))
        if after is not None:
            query = query.where(fine_tuning_jobs.c.id < after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(fine_tuning_jobs.c.id.desc()).limit(limit + 1))
        return [_tuning_pod(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None

    def _batch_job(self, project_id: str, name: str) -> MachinePod | None:
        try:
            job = self._batch_jobs.get(project_id, name)
        except NotFound:
            return None
        return _batch_pod(job) if job.cluster_id is None else None

    def _notebook(self, project_id: str, name: str) -> MachinePod | None:
        try:
            return _notebook_pod(self._notebooks.get(project_id, name))
        except NotFound:
            return None

    def _fine_tuning(self, project_id: str, name: str) -> MachinePod | None:
        job_id, _, attempt = name.rpartition("-")
        query = select(*_TUNING_COLUMNS).where(fine_tuning_jobs.c.id == job_id, *_with_process(project_id))
        with self._database.read() as session:
            row = session.first(query)
        return _tuning_pod(row) if row is not None and str(row.attempt) == attempt else None


def _with_process(project_id: str) -> tuple[Any, ...]:
    """Fine-tuning jobs that have a process here, or get one: what a process leaves goes with it."""
    columns = fine_tuning_jobs.c
    return (columns.project_id == project_id, columns.released.is_(False), columns.cluster_id.is_(None))


def _batch_pod(job: BatchJob) -> MachinePod:
    return MachinePod(
        name=job.id,
        kind=BATCH_JOB,
        job_id=job.id,
        image=job.image,
        phase=_BATCH_PHASES.get(job.status, "Pending"),
        reason=_reason(job.status, job.error_code),
        message=job.error_message or job.reason,
        restarts=job.restarts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _notebook_pod(notebook: Notebook) -> MachinePod:
    return MachinePod(
        name=notebook.id,
        kind=NOTEBOOK,
        job_id=notebook.id,
        image=notebook.image_type,
        phase=_NOTEBOOK_PHASES.get(notebook.status, "Pending"),
        reason=notebook.error_code or str(notebook.status),
        message=notebook.error_message or notebook.reason,
        restarts=0,
        created_at=notebook.created_at,
        started_at=notebook.started_at,
        finished_at=notebook.stopped_at,
        title=notebook.name,
    )


def _engine_pod(engine: MachineEngine) -> MachinePod:
    return MachinePod(
        name=pod_name(engine.model_id),
        kind=ENGINE,
        job_id="",
        image="vllm",
        phase=_ENGINE_PHASES.get(engine.phase, "Running"),
        reason=str(engine.phase),
        message=engine.message,
        restarts=0,
        created_at=int(engine.created_at),
        started_at=engine.started_at,
        finished_at=engine.ended_at,
        title=served_name(engine.model_id),
        ready=engine.phase is EnginePhase.READY,
    )


def _tuning_pod(row: Row[Any]) -> MachinePod:
    status = Status(row.status)
    ended = "Succeeded" if status is Status.SUCCEEDED else "Failed"
    return MachinePod(
        name=f"{row.id}-{row.attempt}",
        kind=FINE_TUNING_JOB,
        job_id=row.id,
        image="training",
        phase=ended if status.is_final else "Running" if status is Status.RUNNING else "Pending",
        reason=str(status),
        message="",
        restarts=0,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _reason(status: Phase, error_code: str | None) -> str:
    return error_code or str(status)
