"""Whose a workload is: the owner of an allocation, read from the rows of jobs and models."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Row, Select, Table, or_, select

from llmariner.batch_jobs.port_ids import port_id, split_port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.tables import model_placements, models
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import Database, ReadSession
from llmariner.platform.serving.kserve.objects import service_name
from llmariner.settings import KServeSettings
from llmariner.showback.tables import NOT_ENDED, allocations
from llmariner.tenancy.tables import projects

__all__ = ["KINDS", "Owner", "PlacedWorkload", "job_of", "owner_of", "placed_workloads"]

KINDS = ("model", "batch_job", "fine_tuning_job", "notebook")
_RECENT_SECONDS = 3600.0
_MAX_JOBS = 20_000
_JOBS = {"batch_job": batch_jobs, "fine_tuning_job": fine_tuning_jobs, "notebook": notebooks}


@dataclass(frozen=True)
class Owner:
    """Who is shown what a workload held. All empty: a model that all projects share."""

    organization_id: str = ""
    project_id: str = ""
    user_id: str = ""


def job_of(port_id: str) -> tuple[str, str]:
    """The kind and the id of a job or notebook by the id that its port has: of a fine-tuning job that of one of its runs."""
    if port_id.startswith("nb-"):
        return "notebook", port_id
    if port_id.startswith("ftjob-"):
        return "fine_tuning_job", port_id.rpartition("-")[0]
    return "batch_job", split_port_id(port_id)[0]


@dataclass(frozen=True)
class PlacedWorkload:
    """What the platform placed on a worker cluster. `since_ms`: it held nothing there before.

    `project_id`: of a model; None: that of its row. Of a job its row alone says whose it is.
    """

    kind: str
    workload_id: str
    since_ms: int
    project_id: str | None = None


def placed_workloads(database: Database) -> dict[str, dict[str, PlacedWorkload]]:
    """What runs on each worker cluster, or ended there within an hour, by its name there: of a Job or an InferenceService.

    A cluster with open allocations alone has nothing.
    """
    opened = select(allocations.c.cluster_id).where(allocations.c.ended_ms == NOT_ENDED, allocations.c.cluster_id != "")
    with database.read() as session:
        found: dict[str, dict[str, PlacedWorkload]] = {row.cluster_id: {} for row in session.rows(opened.distinct())}
        for row in session.rows(_placed(batch_jobs, batch_jobs.c.placement)):
            found.setdefault(row.cluster_id, {})[port_id(row)] = _placed_job("batch_job", row)
        for row in session.rows(_placed(fine_tuning_jobs, fine_tuning_jobs.c.attempt)):
            # The attempt before may have ended a moment ago.
            for attempt in range(max(0, row.attempt - 1), row.attempt + 1):
                placed = _placed_job("fine_tuning_job", row)
                found.setdefault(row.cluster_id, {})[f"{row.id}-{attempt}"] = placed
        for row in session.rows(select(model_placements).limit(_MAX_JOBS)):
            name = service_name(row.model_id, row.adapters_of or None, KServeSettings.namespace)
            placed = PlacedWorkload("model", row.model_id, row.created * 1000, row.adapters_of or None)
            found.setdefault(row.cluster_id, {})[name] = placed
    return found


def _placed_job(kind: str, row: Row[Any]) -> PlacedWorkload:
    return PlacedWorkload(kind, row.id, round((row.placed_at or row.created_at) * 1000))


def _placed(table: Table, number: Column[Any]) -> Select[Any]:
    """The jobs of a table that run on worker clusters, or ended there recently, each with a number."""
    c = table.c
    recent = or_(c.finished_at.is_(None), c.finished_at > time.time() - _RECENT_SECONDS)
    query = select(c.id, c.cluster_id, c.placed_at, c.created_at, number)
    return query.where(c.cluster_id.is_not(None), recent).limit(_MAX_JOBS)


def owner_of(session: ReadSession, kind: str, workload_id: str, project_id: str | None) -> Owner:
    """The owner of a workload; of its project where no row has it any more."""
    if (jobs := _JOBS.get(kind)) is not None:
        query = select(jobs.c.organization_id, jobs.c.project_id, jobs.c.user_id).where(jobs.c.id == workload_id)
        if (row := session.first(query)) is not None:
            return Owner(*row)
    if kind == "model" and project_id is None:
        project_id = session.value(select(models.c.project_id).where(models.c.id == workload_id))
    if not project_id:
        return Owner()
    organization_id = session.value(select(projects.c.organization_id).where(projects.c.id == project_id))
    return Owner(organization_id or "", project_id)
