"""Where fine-tuning jobs run: chosen when they are created."""

from __future__ import annotations

from llmariner.errors import Conflict, InvalidRequest
from llmariner.fine_tuning.job import NewFineTuningJob
from llmariner.fine_tuning.requirements import TrainingSize, problem_at_home, problem_elsewhere
from llmariner.job_placement.places import Choice, JobPlaces
from llmariner.job_placement.worker_clusters import Needs
from llmariner.job_settings import JobSettings, no_job_runner
from llmariner.models.model import Model
from llmariner.tenancy.principal import KeyOwner

__all__ = ["NEEDS", "choose_place", "not_trainable"]

NEEDS = Needs()
"""Every job's: the platform's own program, which trains on processors."""


def choose_place(
    places: JobPlaces, settings: JobSettings, owner: KeyOwner, new: NewFineTuningJob, model: Model
) -> Choice:
    """Where a new job runs. Raises as `JobPlaces.for_new_job`, and InvalidRequest for a model that is too large."""
    size = TrainingSize.of(model, new.training_type, new.worker_count)

    def check_home() -> None:
        if problem := problem_at_home(settings, size):
            raise not_trainable(model, problem)
        if said := places.home().problem:
            raise no_job_runner(f"This machine cannot run jobs: {said}")

    def check_elsewhere() -> None:
        if reason := problem_elsewhere(settings, size):
            raise Conflict(f"No worker cluster can run this job: {reason}.", code="no_cluster")

    return places.for_new_job(owner, new.cluster_id, NEEDS, check_home=check_home, check_elsewhere=check_elsewhere)


def not_trainable(model: Model, problem: str) -> InvalidRequest:
    """The error of a model that can't be fine-tuned."""
    return InvalidRequest(
        f"The model '{model.name}' can't be fine-tuned: {problem}.", param="model", code="model_not_trainable"
    )
