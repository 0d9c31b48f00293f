"""What happened in a job: its events and its checkpoints, in the order of OpenAI's lists, newest first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, select

from llmariner.fine_tuning.jobs import load_job
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_events
from llmariner.platform.database import Database

__all__ = ["Checkpoint", "JobEvent", "JobHistory"]


@dataclass(frozen=True)
class JobEvent:
    """An event. `step`: None unless it has metrics, which are `data`."""

    id: str
    created_at: float
    level: str
    message: str
    step: int | None
    data: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: `model` can be used as any model's name."""

    id: str
    job_id: str
    created_at: int
    step: int
    model: str
    metrics: dict[str, float]


class JobHistory:
    """Events and checkpoints of jobs; those of another project's job are NotFound. All methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def events(self, project_id: str, job_id: str, *, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
        """Up to `limit` events before `after`, newest first, and whether more follow."""
        rows, more = self._page(fine_tuning_events, project_id, job_id, after, limit)
        fields = ("id", "created_at", "level", "message", "step")
        return [JobEvent(**{name: row[name] for name in fields}, data=json.loads(row["data"])) for row in rows], more

    def checkpoints(
        self, project_id: str, job_id: str, *, after: str | None, limit: int
    ) -> tuple[list[Checkpoint], bool]:
        """Up to `limit` checkpoints before `after`, newest first, and whether more follow."""
        rows, more = self._page(fine_tuning_checkpoints, project_id, job_id, after, limit)
        fields = ("id", "job_id", "created_at", "step", "model")
        return [
            Checkpoint(**{name: row[name] for name in fields}, metrics=json.loads(row["metrics"])) for row in rows
        ], more

    def _page(
        self, table: Table, project_id: str, job_id: str, after: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        query = select(table).where(table.c.job_id == job_id)
        if after is not None:
            query = query.where(table.c.id < after)
        with self._database.read() as session:
            load_job(session, project_id, job_id)
            rows = session.rows(query.order_by(table.c.id.desc()).limit(limit + 1))
        return [dict(row._mapping) for row in rows[:limit]], len(rows) > limit
