"""Moves fine-tuning jobs from one cluster to another: away from one that is lost or full. It continues from its state.

A move is a transaction on the job's row: another cluster, the next attempt, and a note of what is left. The token of the
attempt before ends with it, so what comes back with a cluster can't report any more, and is removed then.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, and_, select, update

from llmariner.clusters.job_leftovers import note_leftovers, remove_leftovers
from llmariner.clusters.worker_clusters import chosen_cluster
from llmariner.errors import PlatformError
from llmariner.fine_tuning.events import add_message
from llmariner.fine_tuning.job import Stage, Status
from llmariner.fine_tuning.jobs import change_status, request_change, select_jobs
from llmariner.fine_tuning.places import TrainingPlaces
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import Jobs, JobStatus, Phase
from llmariner.platform.kube.errors import ClusterError, Forbidden

__all__ = ["TrainingMoves", "leave_attempts"]

_LEFT_ATTEMPTS = 20
"""The last ones that are removed after a move. An earlier one that nobody ended has ended by itself: its token is dead."""
_WAITING = (Status.VALIDATING_FILES, Status.QUEUED)


class TrainingMoves:
    """See the module."""

    def __init__(
        self, database: Database, registry: ModelRegistry, places: TrainingPlaces, full_seconds: float
    ) -> None:
        self._database = database
        self._registry = registry
        self._places = places
        self._full_seconds = full_seconds

    def has_waited(self, job: Row[Any], since: float) -> bool:
        """Whether a job that never ran waits in its line for so long that it is worth a look at other clusters."""
        begun = max(since, job.placed_at or job.created_at)
        waits = job.status in _WAITING and job.started_at is None and job.requested_cluster_id is None
        return waits and time.time() - begun > self._full_seconds

    def is_over(self, job: Row[Any], error: PlatformError | ClusterError) -> bool:
        """Whether the cluster of a job, which can't be asked, is lost, or has refused the job for too long."""
        if not isinstance(error, Forbidden):
            return self._places.is_lost(job.cluster_id)
        if job.finished_at is not None:
            return bool(time.time() - job.finished_at > self._full_seconds)
        return self.has_waited(job, 0.0)

    def away_from_full(self, port: Jobs, job: Row[Any], status: JobStatus, name: str) -> bool:
        """Move a job that waits too long to a cluster that has room now; returns whether there is one.

        It is taken out of its line first. A process that is killed in between leaves a job that its cluster gets again.
        """
        if status.phase is not Phase.QUEUED or not self.has_waited(job, status.since):
            return False
        places = self._places.others(job, self._registry.get_many([job.model_id]).get(job.model_id))
        if places is None or not places.candidates:
            return False
        with self._database.write() as session:
            found = places.choose(session, without=job.cluster_id).cluster_id
        if found is None:
            return False
        port.remove(name)
        return self.to_another(job, full=False, reason="Its cluster had no room for it")

    def to_another(self, job: Row[Any], *, full: bool, reason: str) -> bool:
        """Continue a job on another cluster; `full`: also on one that has no room now. Returns whether it was moved."""
        places = self._places.others(job, self._registry.get_many([job.model_id]).get(job.model_id))
        if places is None:
            return False

        def move(session: WriteSession) -> bool:
            decision = places.choose(session, without=job.cluster_id)
            target = chosen_cluster(decision) if full else decision.cluster_id
            query = select_jobs().where(fine_tuning_jobs.c.id == job.id).with_for_update(of=fine_tuning_jobs)
            found = session.first(query)
            if target is None or found is None or (found.status, found.attempt) != (job.status, job.attempt):
                return False
            leave_attempts(session, found)
            again = Status.VALIDATING_FILES if found.stage == Stage.CHECK else Status.QUEUED
            placed = {"cluster_id": target, "placed_at": time.time()}
            change_status(session, found, again, attempt=found.attempt + 1, **placed)
            request_change(session, found)
            message = f"{reason}: the job is queued on another one, to continue after step {found.state_step or 0}"
            add_message(session, found, message, "warn")
            return True

        return self._database.transact(move)

    def to_line(self, job: Row[Any]) -> None:
        """Have a job wait whose cluster is not registered any more, until another one takes it. Idempotent."""

        def change(session: WriteSession) -> None:
            query = select_jobs().where(fine_tuning_jobs.c.id == job.id).with_for_update(of=fine_tuning_jobs)
            found = session.first(query)
            if found is None or found.status in _WAITING or (found.status, found.attempt) != (job.status, job.attempt):
                return
            leave_attempts(session, found)
            again = Status.VALIDATING_FILES if found.stage == Stage.CHECK else Status.QUEUED
            change_status(session, found, again, attempt=found.attempt + 1)
            message = (
                "Its cluster is not registered any more: the job waits until another one takes it, to continue after step "
                f"{found.state_step or 0}"
            )
            add_message(session, found, message, "warn")

        self._database.transact(change)

    def release(self, job: Row[Any]) -> None:
        """Note that a job that has ended or is paused has nothing more to do where it is.

        A worker cluster tells of nothing that is submitted later.
        """

        def change(session: WriteSession) -> None:
            c = fine_tuning_jobs.c
            same = and_(c.id == job.id, c.attempt == job.attempt, c.status == job.status)
            if session.first(select(c.id).where(same).with_for_update()) is not None:
                if job.cluster_id is not None:
                    leave_attempts(session, job)
                session.run(update(fine_tuning_jobs).where(c.id == job.id).values(released=True))

        self._database.transact(change)

    def remove_leftovers(self) -> None:
        """Remove what jobs left on clusters that were away. Idempotent."""
        remove_leftovers(self._database, self._places.port)


def leave_attempts(session: WriteSession, job: Row[Any]) -> None:
    """Have the attempts of a job removed where it is now, as soon as that can be."""
    attempts = range(max(0, job.attempt - _LEFT_ATTEMPTS + 1), job.attempt + 1)
    note_leftovers(session, [f"{job.id}-{attempt}" for attempt in attempts], job.cluster_id)
