"""Events of batch jobs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox

__all__ = [
    "CHANGE_REQUESTED",
    "DELETED",
    "FINISHED",
    "PAUSED",
    "QUEUED",
    "REQUEUED",
    "RESUMED",
    "STARTED",
    "add_job_event",
]

QUEUED = "ai.llmariner.batch_job.queued.v1"
STARTED = "ai.llmariner.batch_job.started.v1"
REQUEUED = "ai.llmariner.batch_job.requeued.v1"
PAUSED = "ai.llmariner.batch_job.paused.v1"
RESUMED = "ai.llmariner.batch_job.resumed.v1"
FINISHED = "ai.llmariner.batch_job.finished.v1"
DELETED = "ai.llmariner.batch_job.deleted.v1"
CHANGE_REQUESTED = "ai.llmariner.batch_job.change_requested.v1"


def add_job_event(session: WriteSession, type_: str, job: Row[Any], **fields: Any) -> None:
    """Add an event about a batch job, a row of `batch_jobs`, to the outbox. `fields` are further data."""
    owner = {"project_id": job.project_id, "organization_id": job.organization_id}
    outbox.add(session, type_, f"batch_jobs/{job.id}", {"id": job.id, **fields, **owner})
