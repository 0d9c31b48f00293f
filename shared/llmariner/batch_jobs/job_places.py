"""Where a batch job runs: chosen when it is created, and found again by its row."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, select

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.clusters.worker_clusters import Places, WorkerClusters, chosen_cluster
from llmariner.errors import Conflict, NotFound, PlatformError
from llmariner.job_settings import JobSettings, no_job_runner
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import Jobs
from llmariner.tenancy.principal import KeyOwner

__all__ = ["WORKER_ENVIRONMENT", "JobPlaces", "JobPorts"]

WORKER_ENVIRONMENT = "In a container of its image, on a worker cluster."
_KNOWN_SECONDS = 5.0
_MAX_KNOWN = 1000


class JobPlaces:
    """Chooses places for new jobs. `jobs`: what runs them at home, or raises Unavailable. `workers` None: nowhere else."""

    def __init__(self, settings: JobSettings, jobs: Callable[[], Jobs], workers: WorkerClusters | None) -> None:
        self._settings = settings
        self._jobs = jobs
        self._workers = workers

    def for_new_job(self, owner: KeyOwner, new: NewBatchJob) -> Callable[[WriteSession], dict[str, Any]]:
        """Chooses in the transaction that makes the row, and returns its columns: home where that can run it.

        Raises InvalidRequest, NotFound for a cluster, Unavailable where nothing would run it; the choice raises Conflict.
        """
        problem, home = self._at_home(new)
        if self._workers is None:
            if problem is not None:
                raise problem
            return lambda _: home
        allowed = self._workers.allowed(owner.organization_id, owner.project_id, only=new.cluster_id)
        if problem is None and any(each.is_local for each in allowed):
            return lambda _: home
        places = self._workers.places(allowed, gpus=new.gpu_count, image=new.image)
        if not places.candidates:
            known = new.image in self._settings.references
            raise problem or (_no_cluster(()) if known else _no_reference(new.image))
        new.check(replace(self._settings, adapter="kubernetes", has_gpus=True))
        return lambda session: _worker_columns(session, places, new, problem)

    def _at_home(self, new: NewBatchJob) -> tuple[PlatformError | None, dict[str, Any]]:
        try:
            new.check(self._settings)
            jobs = self._jobs()
            if said := jobs.problem:
                raise no_job_runner(f"This machine cannot run jobs: {said}")
        except PlatformError as error:
            return error, {}
        return None, {"environment": jobs.environment, "requested_cluster_id": new.cluster_id}


def _worker_columns(
    session: WriteSession, places: Places, new: NewBatchJob, problem: PlatformError | None
) -> dict[str, Any]:
    decision = places.choose(session)
    if (cluster_id := chosen_cluster(decision)) is None:
        raise problem or _no_cluster(decision.refusals)
    return {
        "environment": WORKER_ENVIRONMENT,
        "requested_cluster_id": new.cluster_id,
        "cluster_id": cluster_id,
        "placed_at": time.time(),
    }


def _no_reference(image: str) -> Conflict:
    return Conflict(
        f"The image '{image}' has no reference that a cluster could load: an operator gives it one in LLMARINER_JOB_IMAGES.",
        code="image_without_reference",
    )


def _no_cluster(refusals: Any) -> Conflict:
    reasons = " ".join(f"{each.cluster_id}: {each.reason}" for each in refusals[:5])
    return Conflict(f"No cluster of your project takes this job. {reasons}".strip(), code="no_cluster")


class JobPorts:
    """Finds what runs a job by its row. Thread-safe."""

    def __init__(self, database: Database, jobs: Callable[[], Jobs], workers: WorkerClusters | None) -> None:
        self._database = database
        self._jobs = jobs
        self._workers = workers
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Row[Any]]] = OrderedDict()

    def home(self) -> Jobs:
        """What runs jobs where the platform runs its own. Raises Unavailable in an installation without it."""
        return self._jobs()

    def of_row(self, row: Row[Any]) -> Jobs:
        """What runs the job of a row, by the id `port_id(row)`. Raises Unavailable, NotFound for a cluster that is gone."""
        if row.cluster_id is None or self._workers is None:
            return self._jobs()
        return self._workers.port(row.cluster_id, gpus=bool(row.gpu_count))

    def of(self, job_id: str) -> tuple[Jobs, str]:
        """The same by the job's id, of which a few seconds ago counts: output is asked for again and again."""
        now = time.monotonic()
        with self._lock:
            read_at, row = self._known.get(job_id, (0.0, None))
        if row is None or now - read_at > _KNOWN_SECONDS:
            c = batch_jobs.c
            with self._database.read() as session:
                row = session.first(select(c.id, c.cluster_id, c.placement, c.gpu_count).where(c.id == job_id))
            if row is None:
                raise NotFound(f"No such batch job: '{job_id[:64]}'.", param="id")
            with self._lock:
                self._known[job_id] = now, row
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        return self.of_row(row), port_id(row)
