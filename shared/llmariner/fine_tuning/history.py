"""What happened in a job: its events and its checkpoints, in the order of OpenAI's lists, newest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, func, select

from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.jobs import load_job
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_events, fine_tuning_jobs
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
        return [_event(row) for row in rows], more

    def later_events(self, job_id: str, after: str, limit: int) -> list[JobEvent]:
        """Up to `limit` events after `after`, oldest first; "": from the first on. The caller may see the job."""
        c = fine_tuning_events.c
        query = select(fine_tuning_events).where(c.job_id == job_id, c.id > after).order_by(c.id).limit(limit)
        with self._database.read() as session:
            return [_event(dict(row._mapping)) for row in session.rows(query)]

    def newest_events(self, job_ids: Sequence[str]) -> dict[str, tuple[bool, str]]:
        """By job: whether it has ended, and the id of its newest event. A job that is gone is missing."""
        newest = select(func.max(fine_tuning_events.c.id)).where(fine_tuning_events.c.job_id == fine_tuning_jobs.c.id)
        c = fine_tuning_jobs.c
        query = select(c.id, c.status, newest.scalar_subquery().label("newest")).where(c.id.in_(job_ids))
        with self._database.read() as session:
            return {row.id: (Status(row.status).is_final, row.newest or "") for row in session.rows(query)}

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


def _event(row: Mapping[str, Any]) -> JobEvent:
    fields = ("id", "created_at", "level", "message", "step")
    return JobEvent(**{name: row[name] for name in fields}, data=json.loads(row["data"]))
