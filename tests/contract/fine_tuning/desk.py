"""Fine-tuning jobs of one project on a jobs port whose jobs do what a test says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import select

from llmariner.errors import Unavailable
from llmariner.fine_tuning.history import JobHistory
from llmariner.fine_tuning.job import FineTuningJob, NewFineTuningJob
from llmariner.fine_tuning.jobs import FineTuningJobs
from llmariner.job_settings import JobSettings
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.jobs import Jobs
from llmariner.tenancy.principal import KeyOwner
from llmariner.tracking_settings import TrackingSettings

from ..batch_jobs.scripted_jobs import ScriptedJobs
from ..stored_files import Shelf

__all__ = ["BASE", "NO_TRACKING", "FineTuningDesk", "add_base_model"]

BASE = "smol"
NO_TRACKING = TrackingSettings(wandb_server="")


def add_base_model(registry: ModelRegistry, model_id: str = BASE, **fields: Any) -> None:
    """A shared base model, whose weights are loaded."""
    registry.create(NewModel(model_id, SourceRepository.LOCAL, "/models/smol", task=Task.GENERATE, **fields))
    registry.mark_loaded(model_id, folder="/models/smol", size_bytes=270_000_000, task=Task.GENERATE)


class FineTuningDesk:
    """See the module. `model` must be registered by the test."""

    def __init__(
        self, database: Database, owner: KeyOwner, tracking: TrackingSettings = NO_TRACKING, **settings: Any
    ) -> None:
        self.database = database
        self.shelf = Shelf(database, owner)
        self.caller = self.shelf.caller
        self.project_id = owner.project_id
        self.registry = ModelRegistry(database)
        self.scripted = ScriptedJobs()
        self.port: Jobs | None = self.scripted
        self.tracking = tracking
        self.jobs = FineTuningJobs(
            database, replace(JobSettings(), **settings), self.registry, self.running_jobs, self.tracking
        )
        self.history = JobHistory(database)

    def running_jobs(self) -> Jobs:
        """What runs jobs."""
        if self.port is None:
            raise Unavailable("No jobs run here.", code="no_job_runner")
        return self.port

    def file(self, **values: Any) -> str:
        """The id of a new training file."""
        return self.shelf.file(**{"purpose": "fine-tune", "filename": "train.jsonl", **values})

    def new(self, **fields: Any) -> NewFineTuningJob:
        """A job to create, with a file of its own."""
        given = {"model": BASE, **fields}
        if "training_file" not in given:
            given["training_file"] = self.file()
        return NewFineTuningJob(**given)

    def create(self, **fields: Any) -> str:
        """The id of a new job."""
        return self.jobs.create(self.caller, self.new(**fields)).id

    def get(self, job_id: str) -> FineTuningJob:
        """The job as it is now."""
        return self.jobs.get(self.project_id, job_id)

    def messages(self, job_id: str) -> list[str]:
        """The messages of a job's events, oldest first."""
        found, _ = self.history.events(self.project_id, job_id, after=None, limit=100)
        return [event.message for event in found][::-1]

    def outbox(self, job_id: str) -> list[str]:
        """The types of a job's CloudEvents, without their prefix and version."""
        query = select(events.c.type).where(events.c.subject == f"fine_tuning_jobs/{job_id}").order_by(events.c.id)
        with self.database.read() as session:
            return [row.type.split(".")[-2] for row in session.rows(query)]
