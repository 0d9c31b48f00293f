"""Where a job runs: chosen when it is created, and found again by the cluster of its row."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row

from llmariner.clusters.placement import Refusal
from llmariner.errors import Conflict, NotFound, PlatformError
from llmariner.job_placement.worker_clusters import Needs, Places, WorkerClusters, chosen_cluster
from llmariner.platform.database import WriteSession
from llmariner.platform.jobs import Jobs
from llmariner.tenancy.principal import KeyOwner

__all__ = ["Choice", "JobPlaces"]

Choice = Callable[[WriteSession], dict[str, Any]]
"""Chooses in the transaction that makes a job's row, and returns its columns that say where it runs.

Raises Conflict where no cluster takes the job."""


class JobPlaces:
    """Places of one kind of jobs. `jobs`: what runs them at home, or raises Unavailable. `workers` None: nowhere else.

    Thread-safe.
    """

    def __init__(self, jobs: Callable[[], Jobs], workers: WorkerClusters | None) -> None:
        self._jobs = jobs
        self._workers = workers

    def for_new_job(
        self,
        owner: KeyOwner,
        cluster_id: str | None,
        needs: Needs,
        *,
        check_home: Callable[[], None],
        check_elsewhere: Callable[[], None],
    ) -> Choice:
        """Home where that can run a job, and else a worker cluster. `cluster_id`: the one that it asks for.

        `check_home` and `check_elsewhere` raise a PlatformError where the job can't run at home, or on no worker cluster.
        Raises those, NotFound for a cluster, Conflict where no cluster is there.
        """
        home = {"requested_cluster_id": cluster_id}
        if self._workers is None:
            check_home()
            return lambda _: home
        allowed = self._workers.allowed(owner.organization_id, owner.project_id, only=cluster_id)
        at_home = any(each.is_local for each in allowed)
        problem = _problem(check_home) if at_home else None
        if at_home and problem is None:
            return lambda _: home
        places = self._workers.places(allowed, needs)
        if not places.candidates:
            raise problem or (_no_cluster(()) if self._workers.loads(needs.image) else _no_reference(needs.image))
        try:
            check_elsewhere()
        except Conflict as unfit:
            raise problem or unfit from None

        def choose(session: WriteSession) -> dict[str, Any]:
            decision = places.choose(session)
            if (found := chosen_cluster(decision)) is None:
                raise problem or _no_cluster(decision.refusals)
            return {**home, "cluster_id": found, "placed_at": time.time()}

        return choose

    def home(self) -> Jobs:
        """What runs jobs where the platform runs its own. Raises Unavailable in an installation without it."""
        return self._jobs()

    def port(self, cluster_id: str | None, *, gpus: bool = False) -> Jobs:
        """What runs jobs on a cluster, or at home. `gpus`: the ones with GPUs.

        Raises Unavailable, NotFound for a cluster that is gone, ClusterError.
        """
        if cluster_id is None or self._workers is None:
            return self._jobs()
        return self._workers.port(cluster_id, gpus=gpus)

    def is_lost(self, cluster_id: str) -> bool:
        """As of `WorkerClusters`."""
        return self._workers is not None and self._workers.is_lost(cluster_id)

    def is_gone(self, cluster_id: str) -> bool:
        """Whether a cluster is not registered any more."""
        return self._workers is not None and not self._workers.registered([cluster_id])

    def others(self, job: Row[Any], needs: Needs) -> Places | None:
        """The worker clusters on which a job may run from now on, its own among them; None where there are none."""
        if self._workers is None:
            return None
        try:
            allowed = self._workers.allowed(job.organization_id, job.project_id, only=job.requested_cluster_id)
        except NotFound:
            return None
        places = self._workers.places(allowed, needs)
        return places if places.candidates else None


def _problem(check: Callable[[], None]) -> PlatformError | None:
    try:
        check()
    except PlatformError as error:
        return error
    return None


def _no_reference(image: str) -> Conflict:
    return Conflict(
        f"The image '{image}' has no reference that a cluster could load: an operator gives it one in LLMARINER_JOB_IMAGES.",
        code="image_without_reference",
    )


def _no_cluster(refusals: tuple[Refusal, ...]) -> Conflict:
    reasons = " ".join(f"{each.cluster_id}: {each.reason}" for each in refusals[:5])
    return Conflict(f"No cluster of your project takes this job. {reasons}".strip(), code="no_cluster")
