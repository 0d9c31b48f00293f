"""Where fine-tuning jobs run: what a place must have for one."""

from __future__ import annotations

from llmariner.errors import Conflict
from llmariner.fine_tuning.job import NewFineTuningJob, TrainingType
from llmariner.job_placement.places import Choice, JobPlaces
from llmariner.job_placement.worker_clusters import Needs
from llmariner.job_settings import JobSettings, no_job_runner
from llmariner.models.model import Model
from llmariner.platform.jobs import FETCHED_WEIGHTS, Jobs
from llmariner.tenancy.principal import KeyOwner

__all__ = ["NEEDS", "choose_place", "reason_to_stay"]

NEEDS = Needs()
"""Every job's: the platform's own program, which trains on processors."""
_WEIGHTS = ("hf://", *FETCHED_WEIGHTS)
"""Those that a pod reads wherever it is: claims and folders are of one cluster or machine."""


def choose_place(
    places: JobPlaces, settings: JobSettings, owner: KeyOwner, new: NewFineTuningJob, model: Model
) -> Choice:
    """Where a new job runs. Raises as `JobPlaces.for_new_job`."""

    def check_home(jobs: Jobs) -> None:
        if said := jobs.problem:
            raise no_job_runner(f"This machine cannot run jobs: {said}")

    def check_elsewhere() -> None:
        if reason := reason_to_stay(settings, model.folder, new.training_type):
            raise Conflict(f"No worker cluster can run this job: {reason}", code="no_cluster")

    return places.for_new_job(owner, new.cluster_id, NEEDS, check_home=check_home, check_elsewhere=check_elsewhere)


def reason_to_stay(settings: JobSettings, folder: str, training_type: str | None) -> str:
    """Why no worker cluster can train a model with weights in a folder; empty where one can."""
    if not settings.training_image:
        return "an operator names its image with LLMARINER_TRAINING_IMAGE."
    if settings.training_volumes:
        return (
            "its program needs the volumes of LLMARINER_TRAINING_VOLUMES, which the platform's own cluster alone has."
        )
    if not folder.startswith(_WEIGHTS):
        read = ", ".join(_WEIGHTS)
        return f"it reads weights at {read} alone, and those of this model are where the platform runs its own jobs."
    if training_type == TrainingType.FULL:
        return "engines of a cluster fetch adapters alone of what jobs make. Use the training type 'lora'."
    return ""
