"""Where batch jobs run: what a place must have for one, and what those have taken that were placed a moment ago."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import func, select

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.job_placement.places import Choice, JobPlaces
from llmariner.job_placement.worker_clusters import Needs
from llmariner.job_settings import JobSettings, no_job_runner
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import KeyOwner

__all__ = ["WORKER_ENVIRONMENT", "choose_place", "placed_gpus"]

WORKER_ENVIRONMENT = "In a container of its image, on a worker cluster."
_ACTIVE = (Phase.QUEUED.value, Phase.RUNNING.value)


def choose_place(places: JobPlaces, settings: JobSettings, owner: KeyOwner, new: NewBatchJob) -> Choice:
    """Where a new job runs. Raises as `JobPlaces.for_new_job`, and InvalidRequest for what no place can run."""
    environments: list[str] = []

    def check_home() -> None:
        new.check(settings)
        jobs = places.home()
        if said := jobs.problem:
            raise no_job_runner(f"This machine cannot run jobs: {said}")
        environments.append(jobs.environment)

    def check_elsewhere() -> None:
        new.check(replace(settings, adapter="kubernetes", has_gpus=True))

    needs = Needs(new.gpu_count, new.image)
    choose = places.for_new_job(owner, new.cluster_id, needs, check_home=check_home, check_elsewhere=check_elsewhere)

    def columns(session: WriteSession) -> dict[str, Any]:
        chosen = choose(session)
        return {"environment": WORKER_ENVIRONMENT if chosen.get("cluster_id") else environments[0], **chosen}

    return columns


def placed_gpus(session: ReadSession, cluster_id: str, since: float) -> int:
    """GPUs of the jobs that were placed on a cluster since then (Unix seconds), and have not ended."""
    c = batch_jobs.c
    gpus = func.sum(c.gpu_count * func.coalesce(c.worker_count, 1))
    placed = (c.cluster_id == cluster_id) & (c.placed_at >= since) & c.status.in_(_ACTIVE)
    return int(session.value(select(gpus).where(placed)) or 0)
