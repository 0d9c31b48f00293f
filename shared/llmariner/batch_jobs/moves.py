"""Moves batch jobs from one cluster to another: away from one that is lost or full, and removes what they left there.

A move is a transaction on the job's row: another cluster, the next number of its placement, and a note of what is left.
Tokens of the placement before end with it, so what comes back with a cluster can't report any more, and is removed then.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.batch_jobs.events import CHANGE_REQUESTED, REQUEUED, add_job_event
from llmariner.batch_jobs.job_places import WORKER_ENVIRONMENT
from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.result_uploads import discard_results
from llmariner.batch_jobs.status_records import delete_row, record_status
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.clusters.job_leftovers import note_leftovers, remove_leftovers
from llmariner.clusters.worker_clusters import WorkerClusters, chosen_cluster
from llmariner.errors import NotFound, PlatformError
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import Jobs, JobStatus, Phase
from llmariner.platform.kube.errors import ClusterError, Forbidden
from llmariner.tenancy.principal import Caller, maker_of

__all__ = ["Moves"]

_log = logging.getLogger(__name__)
_GONE = "The cluster that it asked for is not registered any more. Create it again, for another one or for none."
_UNREGISTERED = "Its cluster is not registered any more. It waits until another one takes it, and begins again there."


class Moves:
    """See the module. `jobs`: of home, or raises Unavailable. `workers` None: there is nothing to move to.

    `delete_file`: of a project, in somebody's name; it may raise PlatformError.
    """

    def __init__(
        self,
        database: Database,
        jobs: Callable[[], Jobs],
        workers: WorkerClusters | None,
        full_seconds: float,
        delete_file: Callable[[Caller, str], None],
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._workers = workers
        self._full_seconds = full_seconds
        self._delete_file = delete_file

    def has_waited(self, row: Row[Any], status: JobStatus) -> bool:
        """Whether a job waits in its line for so long that it is worth a look at other clusters."""
        since = row.placed_at or row.created_at
        waits = status.phase is Phase.QUEUED and row.status == Phase.QUEUED and row.started_at is None
        return waits and row.requested_cluster_id is None and time.time() - since > self._full_seconds

    def to_another(self, port: Jobs, row: Row[Any]) -> bool:
        """Move a waiting job to a cluster that has room now; returns whether there is one.

        It is taken out of its line first. A process that is killed in between leaves a job that its cluster gets again.
        """
        if self._workers is None or row.cancel_requested_at is not None or row.pause_requested_at is not None:
            return False
        places = self._workers.places(self._allowed(row), gpus=row.gpu_count, image=row.image)
        if not places.candidates:
            return False
        with self._database.write() as session:
            found = places.choose(session, without=row.cluster_id).cluster_id
        if found is None:
            return False
        port.remove(port_id(row))
        return self._move(row, full=False, reason="Its cluster had no room for it.")

    def after_failure(self, row: Row[Any], error: PlatformError | ClusterError) -> None:
        """What becomes of a job whose cluster can't be asked.

        It waits. Once the cluster is lost, or has lasted too long with a refusal, it ends, pauses, or moves.
        """
        _log.warning("batch job %s: its cluster %s can't be asked: %s", row.id, row.cluster_id, error)
        if row.deleted_at is not None:
            delete_row(self._database, row)
        elif row.finished_at is None and self._is_over(row, error):
            if row.cancel_requested_at is not None:
                self._leave(row)
                record_status(self._database, row, JobStatus(Phase.CANCELED, time.time(), row.started_at))
            elif row.pause_requested_at is not None:
                record_status(self._database, row, JobStatus(Phase.PAUSED, time.time()))
            elif not self._move(row, full=True, reason="Its cluster is away."):
                self._settle_without_cluster(row)

    def _settle_without_cluster(self, row: Row[Any]) -> None:
        """Of a cluster that is not registered any more: end a job that asked for it, have another one wait for a place."""
        assert self._workers is not None
        if self._workers.registered([row.cluster_id]):
            return
        if row.requested_cluster_id is not None:
            status = JobStatus(Phase.FAILED, time.time(), row.started_at, code="cluster_gone", reason=_GONE)
            record_status(self._database, row, status)
        elif row.status != Phase.QUEUED:
            queue = partial(_queue, row=row, cluster_id=row.cluster_id, code="cluster_gone", message=_UNREGISTERED)
            self._delete_files(row, self._database.transact(queue))

    def _is_over(self, row: Row[Any], error: PlatformError | ClusterError) -> bool:
        assert self._workers is not None
        if not isinstance(error, Forbidden):
            return self._workers.is_lost(row.cluster_id)
        if row.cancel_requested_at is not None:
            return bool(time.time() - row.cancel_requested_at > self._full_seconds)
        return self.has_waited(row, JobStatus(Phase.QUEUED, time.time()))

    def remove_leftovers(self) -> None:
        """Remove what earlier placements of jobs left. Idempotent."""
        remove_leftovers(self._database, self._port)

    def _move(self, row: Row[Any], *, full: bool, reason: str) -> bool:
        """Place a job on another cluster; `full`: also on one that has no room now. Returns whether it was moved."""
        assert self._workers is not None
        places = self._workers.places(self._allowed(row), gpus=row.gpu_count, image=row.image)

        def move(session: WriteSession) -> list[str] | None:
            decision = places.choose(session, without=row.cluster_id)
            target = chosen_cluster(decision) if full else decision.cluster_id
            text = f"{reason} It begins again on another cluster."
            return None if target is None else _queue(session, row, target, "moved", text)

        return self._delete_files(row, self._database.transact(move))

    def _delete_files(self, row: Row[Any], file_ids: list[str] | None) -> bool:
        """Delete what the placement before left, as it is when a pod begins again. Returns whether there is another one."""
        for file_id in file_ids or ():
            with contextlib.suppress(PlatformError):  # in use, or deleted by somebody else
                self._delete_file(maker_of(row), file_id)
        return file_ids is not None

    def _allowed(self, row: Row[Any]) -> Any:
        assert self._workers is not None
        try:
            return self._workers.allowed(row.organization_id, row.project_id, only=row.requested_cluster_id)
        except NotFound:
            return []

    def _leave(self, row: Row[Any]) -> None:
        self._database.transact(lambda session: note_leftovers(session, [port_id(row)], row.cluster_id))

    def _port(self, cluster_id: str | None) -> Jobs:
        if cluster_id is None or self._workers is None:
            return self._jobs()
        return self._workers.port(cluster_id, gpus=False)


def _queue(session: WriteSession, row: Row[Any], cluster_id: str, code: str, message: str) -> list[str] | None:
    """Queue a job on a cluster, as another placement. Returns the ids of the files that the one before left.

    None if it has ended or was placed meanwhile.
    """
    now = session.first(select(batch_jobs).where(batch_jobs.c.id == row.id).with_for_update())
    if now is None or now.placement != row.placement or now.finished_at is not None:
        return None
    left = discard_results(session, row.id)
    values: dict[str, Any] = {"cluster_id": cluster_id, "placement": now.placement + 1, "placed_at": time.time()}
    values |= {"status": Phase.QUEUED.value, "environment": WORKER_ENVIRONMENT, "results_error": None}
    session.run(update(batch_jobs).where(batch_jobs.c.id == row.id).values(**values))
    note_leftovers(session, [port_id(row)], row.cluster_id)
    cause = {"code": code, "message": message}
    add_job_event(session, REQUEUED, row, restarts=row.restarts, error=cause, cluster_id=cluster_id)
    add_job_event(session, CHANGE_REQUESTED, row, change="run")
    return left
