"""Events of fine-tuning jobs: CloudEvents for subscribers, and the list that OpenAI's API shows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from llmariner.fine_tuning.tables import fine_tuning_events
from llmariner.identifiers import new_id
from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox

__all__ = [
    "CHANGE_REQUESTED",
    "CREATED",
    "PROGRESSED",
    "PROMOTION_DECIDED",
    "STATUS_CHANGED",
    "TRACKING_REQUESTED",
    "add_job_event",
    "add_message",
    "add_metrics",
]

CREATED = "ai.llmariner.fine_tuning_job.created.v1"
STATUS_CHANGED = "ai.llmariner.fine_tuning_job.status_changed.v1"
PROGRESSED = "ai.llmariner.fine_tuning_job.progressed.v1"
PROMOTION_DECIDED = "ai.llmariner.fine_tuning_job.promotion_decided.v1"
CHANGE_REQUESTED = "ai.llmariner.fine_tuning_job.change_requested.v1"
TRACKING_REQUESTED = "ai.llmariner.fine_tuning_job.tracking_requested.v1"


def add_job_event(session: WriteSession, type_: str, job: Row[Any], **fields: Any) -> None:
    """Add an event about a job, a row of `fine_tuning_jobs`, to the outbox. `fields` are further data."""
    owner = {"project_id": job.project_id, "organization_id": job.organization_id}
    outbox.add(session, type_, f"fine_tuning_jobs/{job.id}", {"id": job.id, **fields, **owner})


def add_message(
    session: WriteSession, job: Row[Any], message: str, level: str = "info", data: Mapping[str, str] | None = None
) -> None:
    """Add a message to the job's list of events."""
    said = json.dumps(dict(data or {}))
    session.add(fine_tuning_events, **_place(job), level=level, message=message, step=None, data=said)


def add_metrics(session: WriteSession, job: Row[Any], step: int, metrics: Mapping[str, float], total: int) -> None:
    """Add the metrics of a step, unless they were reported before."""
    loss = metrics["train_loss"]
    message = f"Step {step}/{total}: training loss={loss:.4f}"
    if "train_reward_mean" in metrics:
        message += f", reward={metrics['train_reward_mean']:.4f}"
    row = {"level": "info", "message": message, "step": step}
    session.insert_if_absent(fine_tuning_events, [{**_place(job), **row, "data": json.dumps(dict(metrics))}])


def _place(job: Row[Any]) -> dict[str, Any]:
    owner = {"organization_id": job.organization_id, "project_id": job.project_id}
    return {"id": new_id("ftevent").replace("_", "-", 1), "job_id": job.id, "created_at": time.time(), **owner}
