"""Where a fine-tuning job runs: chosen when it is created, and again when its cluster is lost or full.

Each attempt of a job has a token and a name of its own, so an attempt on another cluster fences off those before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row

from llmariner.clusters.worker_clusters import Places, WorkerClusters, chosen_cluster
from llmariner.errors import Conflict, NotFound, PlatformError
from llmariner.fine_tuning.job import NewFineTuningJob, TrainingType
from llmariner.job_settings import JobSettings, no_job_runner
from llmariner.models.model import Model
from llmariner.platform.database import WriteSession
from llmariner.platform.jobs import FETCHED_WEIGHTS, Jobs
from llmariner.tenancy.principal import KeyOwner

__all__ = ["TrainingPlaces"]

_WEIGHTS = ("hf://", *FETCHED_WEIGHTS)
"""Those that a pod reads wherever it is: claims and folders are of one cluster or machine."""


class TrainingPlaces:
    """`jobs`: what runs jobs at home, or raises Unavailable. `workers` None: they run nowhere else."""

    def __init__(self, settings: JobSettings, jobs: Callable[[], Jobs], workers: WorkerClusters | None) -> None:
        self._settings = settings
        self._jobs = jobs
        self._workers = workers

    def for_new_job(
        self, owner: KeyOwner, new: NewFineTuningJob, model: Model
    ) -> Callable[[WriteSession], dict[str, Any]]:
        """Chooses in the transaction that makes the row, and returns its columns: home where that can run it.

        Raises NotFound for a cluster, Unavailable or Conflict where nothing would run it; the choice raises Conflict.
        """
        home = {"requested_cluster_id": new.cluster_id}
        problem = self._problem_at_home()
        if self._workers is None:
            if problem is not None:
                raise problem
            return lambda _: home
        allowed = self._workers.allowed(owner.organization_id, owner.project_id, only=new.cluster_id)
        if problem is None and any(each.is_local for each in allowed):
            return lambda _: home
        if reason := self._stays_home(model.folder, new.training_type):
            raise problem or Conflict(f"No worker cluster can run this job: {reason}", code="no_cluster")
        places = self._workers.places(allowed, gpus=0, image="")

        def choose(session: WriteSession) -> dict[str, Any]:
            decision = places.choose(session)
            if (cluster_id := chosen_cluster(decision)) is None:
                reasons = " ".join(f"{each.cluster_id}: {each.reason}" for each in decision.refusals[:5])
                text = f"No cluster of your project takes this job. {reasons}"
                raise problem or Conflict(text.strip(), code="no_cluster")
            return {**home, "cluster_id": cluster_id, "placed_at": time.time()}

        return choose

    def port(self, cluster_id: str | None) -> Jobs:
        """What runs jobs on a cluster, or at home. Raises Unavailable, NotFound for one that is gone, ClusterError."""
        if cluster_id is None or self._workers is None:
            return self._jobs()
        return self._workers.port(cluster_id, gpus=False)

    def is_lost(self, cluster_id: str) -> bool:
        """As of `WorkerClusters`."""
        return self._workers is not None and self._workers.is_lost(cluster_id)

    def asked_for_gone(self, job: Row[Any]) -> bool:
        """Whether a job asked for a cluster which is not registered any more."""
        asked = job.requested_cluster_id
        return self._workers is not None and asked is not None and not self._workers.registered([asked])

    def is_gone(self, cluster_id: str) -> bool:
        """Whether a cluster is not registered any more."""
        return self._workers is not None and not self._workers.registered([cluster_id])

    def others(self, job: Row[Any], model: Model | None) -> Places | None:
        """The worker clusters on which a job may continue, with its own; None where there are none."""
        if self._workers is None or model is None or self._stays_home(model.folder, job.training_type):
            return None
        try:
            allowed = self._workers.allowed(job.organization_id, job.project_id, only=job.requested_cluster_id)
        except NotFound:
            return None
        return self._workers.places(allowed, gpus=0, image="")

    def _problem_at_home(self) -> PlatformError | None:
        try:
            if said := self._jobs().problem:
                raise no_job_runner(f"This machine cannot run jobs: {said}")
        except PlatformError as error:
            return error
        return None

    def _stays_home(self, folder: str, training_type: str | None) -> str:
        """Why no worker cluster can train a model with these weights; empty where one can."""
        if not self._settings.training_image:
            return "an operator names its image with LLMARINER_TRAINING_IMAGE."
        if self._settings.training_volumes:
            return "its program needs the volumes of LLMARINER_TRAINING_VOLUMES, which the platform's own cluster alone has."
        if not folder.startswith(_WEIGHTS):
            read = ", ".join(_WEIGHTS)
            return (
                f"it reads weights at {read} alone, and those of this model are where the platform runs its own jobs."
            )
        if training_type == TrainingType.FULL:
            return "engines of a cluster fetch adapters alone of what jobs make. Use the training type 'lora'."
        return ""
