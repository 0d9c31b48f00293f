"""Moves jobs from one cluster to another: away from one that is lost or full, and removes what they left there.

A move is a transaction on the job's row: another cluster, the next name that its port has for it, and a note of what is
left. The token of the name before ends with it: what comes back with a cluster can't report any more, and is removed then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sqlalchemy import Row

from llmariner.errors import PlatformError
from llmariner.job_placement.leftovers import note_leftovers, remove_leftovers
from llmariner.job_placement.places import JobPlaces
from llmariner.job_placement.worker_clusters import Needs, Places, chosen_cluster
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import Jobs, JobStatus, Phase
from llmariner.platform.kube.errors import ClusterError, Forbidden

__all__ = ["MovableJobs", "Moves"]

_GONE = "The cluster that it asked for is not registered any more. Create the job again, for another one or for none."
_NOT_REGISTERED = "Its cluster is not registered any more: the job waits until another one takes it"


class MovableJobs(Protocol):
    """One kind of jobs. A job is a row of its table, whose columns say where it is: `cluster_id`, None at home.

    `requested_cluster_id`, `placed_at`, `created_at`, `started_at`, `organization_id` and `project_id` are there, too.
    """

    def needs(self, job: Row[Any]) -> Needs | None:
        """What it needs of another cluster; None where it can't run on another."""

    def is_queued(self, job: Row[Any]) -> bool:
        """Whether it waits to run, for the first time or again."""

    def end_requested_at(self, job: Row[Any]) -> float | None:
        """When it was ended by somebody, in Unix seconds; None: it was not."""

    def queue(
        self, session: WriteSession, job: Row[Any], cluster_id: str, code: str, reason: str
    ) -> Callable[[], None] | None:
        """Queue it on a cluster under the next name. Returns what follows the commit.

        None, without a change: it has changed since it was read. `reason`: a sentence without its end; `code` for programs.
        """

    def names(self, job: Row[Any]) -> Iterable[str]:
        """The ids of its port that it may have left where it is."""


class Moves:
    """See the module. `full_seconds`: how long a job waits in one line before others are looked at."""

    def __init__(self, database: Database, places: JobPlaces, jobs: MovableJobs, full_seconds: float) -> None:
        self._database = database
        self._places = places
        self._jobs = jobs
        self._full_seconds = full_seconds

    def is_over(self, job: Row[Any], error: PlatformError | ClusterError) -> bool:
        """Whether the cluster of a job, which can't be asked, is lost, or has refused the job for too long."""
        if not isinstance(error, Forbidden):
            return self._places.is_lost(job.cluster_id)
        ended_at = self._jobs.end_requested_at(job)
        if ended_at is not None:
            return time.time() - ended_at > self._full_seconds
        return self._has_waited(job, 0.0)

    def away_from_full(self, port: Jobs, job: Row[Any], status: JobStatus, name: str) -> bool:
        """Move a job that waits too long to a cluster that has room now; returns whether there is one.

        It is taken out of its line first. A process that is killed in between leaves a job that its cluster gets again.
        """
        if status.phase is not Phase.QUEUED or not self._has_waited(job, status.since):
            return False
        places = self._others(job)
        if places is None:
            return False
        with self._database.write() as session:
            found = places.choose(session, without=job.cluster_id).cluster_id
        if found is None:
            return False
        port.remove(name)
        # Also where another job has taken the room since: it is in no line any more, and may just have begun.
        return self._to_another(job, reason="Its cluster had no room for it")

    def away_from_lost(self, job: Row[Any]) -> str:
        """Have a job of a lost cluster run on another one, which perhaps has no room yet; else it waits.

        Returns why it can't run any more, in words for users: it asked for a cluster that is not registered any more.
        """
        if self._to_another(job, reason="Its cluster is away") or not self._places.is_gone(job.cluster_id):
            return ""
        if job.requested_cluster_id is not None:
            return _GONE
        if not self._jobs.is_queued(job):
            self._queue(job, lambda _: job.cluster_id, "cluster_gone", _NOT_REGISTERED)
        return ""

    def leave(self, session: WriteSession, job: Row[Any]) -> None:
        """Have a job removed where it is now, as soon as that can be."""
        note_leftovers(session, self._jobs.names(job), job.cluster_id)

    def remove_leftovers(self) -> None:
        """Remove what jobs left on clusters that were away. Idempotent."""
        remove_leftovers(self._database, self._places.port)

    def _has_waited(self, job: Row[Any], since: float) -> bool:
        """Whether a job that never ran waits in its line for so long that it is worth a look at other clusters."""
        begun = max(since, job.placed_at or job.created_at)
        waits = self._jobs.is_queued(job) and job.started_at is None and job.requested_cluster_id is None
        return waits and time.time() - begun > self._full_seconds

    def _to_another(self, job: Row[Any], *, reason: str) -> bool:
        """Queue a job on another cluster, perhaps one that has no room now. Returns whether it was moved."""
        places = self._others(job)
        if places is None:
            return False

        def choose(session: WriteSession) -> str | None:
            return chosen_cluster(places.choose(session, without=job.cluster_id))

        return self._queue(job, choose, "moved", f"{reason}: the job is queued on another one")

    def _others(self, job: Row[Any]) -> Places | None:
        needs = self._jobs.needs(job)
        return None if needs is None else self._places.others(job, needs)

    def _queue(self, job: Row[Any], choose: Callable[[WriteSession], str | None], code: str, reason: str) -> bool:
        def move(session: WriteSession) -> Callable[[], None] | None:
            cluster_id = choose(session)
            follow = None if cluster_id is None else self._jobs.queue(session, job, cluster_id, code, reason)
            if follow is not None:
                self.leave(session, job)
            return follow

        follow = self._database.transact(move)
        if follow is not None:
            follow()
        return follow is not None
