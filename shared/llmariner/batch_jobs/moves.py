"""How batch jobs leave a cluster that is lost or full: as another placement, which begins from the start.

So what an earlier placement left has another name, and its token is no token of the present one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.batch_jobs.events import CHANGE_REQUESTED, REQUEUED, add_job_event
from llmariner.batch_jobs.placement import WORKER_ENVIRONMENT
from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.result_uploads import discard_results
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import PlatformError
from llmariner.job_placement.worker_clusters import Needs
from llmariner.platform.database import WriteSession
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import Caller, maker_of

__all__ = ["MovableBatchJobs"]


class MovableBatchJobs:
    """See `job_placement.moves`. `delete_file`: of a project, in somebody's name; it may raise PlatformError."""

    def __init__(self, delete_file: Callable[[Caller, str], None]) -> None:
        self._delete_file = delete_file

    def needs(self, job: Row[Any]) -> Needs | None:
        """As each job has them."""
        return Needs(job.gpu_count, job.image)

    def is_queued(self, job: Row[Any]) -> bool:
        """By its status."""
        return bool(job.status == Phase.QUEUED)

    def end_requested_at(self, job: Row[Any]) -> float | None:
        """When it was canceled."""
        return None if job.cancel_requested_at is None else float(job.cancel_requested_at)

    def queue(
        self, session: WriteSession, job: Row[Any], cluster_id: str, code: str, reason: str
    ) -> Callable[[], None] | None:
        """As another placement, which begins without the results of the one before, as a pod that begins again does."""
        now = session.first(select(batch_jobs).where(batch_jobs.c.id == job.id).with_for_update())
        if now is None or now.placement != job.placement or now.finished_at is not None:
            return None
        left = discard_results(session, job.id)
        values: dict[str, Any] = {"cluster_id": cluster_id, "placement": now.placement + 1, "placed_at": time.time()}
        values |= {"status": Phase.QUEUED.value, "environment": WORKER_ENVIRONMENT, "results_error": None}
        session.run(update(batch_jobs).where(batch_jobs.c.id == job.id).values(**values))
        cause = {"code": code, "message": f"{reason}, and begins again there."}
        add_job_event(session, REQUEUED, job, restarts=job.restarts, error=cause, cluster_id=cluster_id)
        add_job_event(session, CHANGE_REQUESTED, job, change="run")
        return partial(self._delete_files, job, left)

    def names(self, job: Row[Any]) -> Iterable[str]:
        """Of its present placement: those before are noted since they ended."""
        return (port_id(job),)

    def _delete_files(self, job: Row[Any], file_ids: Iterable[str]) -> None:
        for file_id in file_ids:
            with contextlib.suppress(PlatformError):  # in use, or deleted by somebody else
                self._delete_file(maker_of(job), file_id)
