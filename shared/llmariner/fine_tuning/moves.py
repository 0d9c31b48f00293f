"""How fine-tuning jobs leave a cluster that is lost or full: as another attempt, which continues from the last state.

Each attempt of a job has a token and a name of its own, so an attempt on another cluster fences off those before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Row

from llmariner.fine_tuning.events import add_message
from llmariner.fine_tuning.job import Stage, Status
from llmariner.fine_tuning.jobs import change_status, request_change, select_jobs
from llmariner.fine_tuning.placement import NEEDS
from llmariner.fine_tuning.requirements import TrainingSize, problem_elsewhere
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.job_placement.worker_clusters import Needs
from llmariner.job_settings import JobSettings
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import WriteSession

__all__ = ["MovableTrainings"]

_LEFT_ATTEMPTS = 20
"""The last ones that are removed after a move. An earlier one that nobody ended has ended by itself: its token is dead."""


class MovableTrainings:
    """See `job_placement.moves`."""

    def __init__(self, registry: ModelRegistry, settings: JobSettings) -> None:
        self._registry = registry
        self._settings = settings

    def needs(self, job: Row[Any]) -> Needs | None:
        """None where its base model is gone, or no worker cluster can train it."""
        model = self._registry.get_many([job.model_id]).get(job.model_id)
        if model is None:
            return None
        size = TrainingSize.of(model, job.training_type, job.worker_count)
        return None if problem_elsewhere(self._settings, size) else NEEDS

    def is_queued(self, job: Row[Any]) -> bool:
        """By its status."""
        return job.status in (Status.VALIDATING_FILES, Status.QUEUED)

    def end_requested_at(self, job: Row[Any]) -> float | None:
        """When it ended: its process, which needs longer, is what is asked about."""
        return None if job.finished_at is None else float(job.finished_at)

    def queue(
        self, session: WriteSession, job: Row[Any], cluster_id: str, code: str, reason: str
    ) -> Callable[[], None] | None:
        """As the next attempt."""
        query = select_jobs().where(fine_tuning_jobs.c.id == job.id).with_for_update(of=fine_tuning_jobs)
        found = session.first(query)
        if found is None or (found.status, found.attempt) != (job.status, job.attempt):
            return None
        again = Status.VALIDATING_FILES if found.stage == Stage.CHECK else Status.QUEUED
        placed = {"cluster_id": cluster_id, "placed_at": time.time()}
        change_status(session, found, again, attempt=found.attempt + 1, **placed)
        request_change(session, found)
        add_message(session, found, f"{reason}, to continue after step {found.state_step or 0}", "warn")
        return _nothing_follows

    def names(self, job: Row[Any]) -> Iterable[str]:
        """Of its last attempts."""
        attempts = range(max(0, job.attempt - _LEFT_ATTEMPTS + 1), job.attempt + 1)
        return [f"{job.id}-{attempt}" for attempt in attempts]


def _nothing_follows() -> None:
    """After a move: its files are those of the job."""
