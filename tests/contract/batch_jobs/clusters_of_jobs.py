"""Worker clusters and a home of scripted jobs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import select, update

from llmariner.batch_jobs.batch_jobs import BatchJobs
from llmariner.batch_jobs.reconciler import Reconciler
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import KeyOwner

from ..stored_files import member_of
from ..worker_clusters import FULL, IMAGES, ClusterDesk
from .scripted_jobs import NEW, FilesOfTests, ScriptedJobs

__all__ = ["Clusters"]

_SETTINGS = replace(JobSettings(), references=IMAGES)


class Clusters(ClusterDesk):
    """Home runs CPU jobs."""

    def __init__(self, database: Database, owner: KeyOwner) -> None:
        super().__init__(database, owner)
        self.caller, self.home = member_of(owner), ScriptedJobs()
        self.jobs = BatchJobs(database, _SETTINGS, lambda: self.home, self.workers)
        self.reconciler = Reconciler(database, lambda: self.home, FilesOfTests, workers=self.workers, full_seconds=FULL)

    def create(self, **fields: Any) -> str:
        return self.jobs.create(self.caller, replace(NEW, **fields)).id

    def row(self, job_id: str) -> Any:
        with self.database.read() as session:
            return session.first(select(batch_jobs).where(batch_jobs.c.id == job_id))

    def age(self, job_id: str, seconds: float) -> None:
        with self.database.write() as session:
            then = time.time() - seconds
            session.run(
                update(batch_jobs).where(batch_jobs.c.id == job_id).values(placed_at=then, created_at=int(then))
            )
