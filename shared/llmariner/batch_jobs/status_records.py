"""What became of batch jobs, in their rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, select, update

from llmariner.batch_jobs.events import FINISHED, PAUSED, REQUEUED, STARTED, add_job_event
from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.result_uploads import discard_results, settle_uploads
from llmariner.batch_jobs.tables import batch_job_files, batch_job_results, batch_jobs
from llmariner.job_placement.leftovers import note_leftovers
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import JobStatus, Phase

__all__ = ["delete_row", "record_status"]

_REASON_LENGTH = 4000


def record_status(database: Database, observed: Row[Any], status: JobStatus, results_error: str = "") -> None:
    """Write what the port says into the row, with the event of each change.

    Unless the job has ended, or was placed again since its row was `observed`: then another port has it.
    """
    job_id, status = observed.id, replace(status, reason=status.reason[:_REASON_LENGTH])

    def change(session: WriteSession) -> None:
        unfinished: ColumnElement[bool] = batch_jobs.c.finished_at.is_(None)
        row = session.first(select(batch_jobs).where(batch_jobs.c.id == job_id, unfinished).with_for_update())
        if row is None or row.deleted_at is not None or row.placement != observed.placement:
            return
        values: dict[str, Any] = {}
        if status.restarts > row.restarts:
            values["restarts"] = status.restarts
            cause = {"code": status.code, "message": status.reason} if status.phase is Phase.QUEUED else None
            add_job_event(session, REQUEUED, row, restarts=status.restarts, error=cause)
        if status.phase.is_final:
            said = (results_error, row.results_error, settle_uploads(session, job_id))
            values |= {**_end(session, row, status), "results_error": " ".join(filter(None, said)) or None}
        elif status.phase is not Phase(row.status):
            values |= _changed_phase(session, row, status)
        if status.phase is Phase.RUNNING and row.pause_requested_at is not None and not row.backoff_limit:
            values["pause_requested_at"] = None  # it began before the pause reached it
        if values:
            session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(**values))

    database.transact(change)


def _changed_phase(session: WriteSession, row: Row[Any], status: JobStatus) -> dict[str, Any]:
    """The columns of a job that has not ended and is in another phase now."""
    if status.phase is Phase.PAUSED:
        if row.pause_requested_at is None:  # it was resumed meanwhile, which has an event of its own
            return {}
        add_job_event(session, PAUSED, row)
    elif status.phase is Phase.RUNNING:
        add_job_event(session, STARTED, row)
        return {"status": Phase.RUNNING.value, "started_at": row.started_at or status.started_at}
    elif row.started_at is not None and status.since < row.started_at:  # what was true before it began
        return {}
    return {"status": status.phase.value}


def _end(session: WriteSession, row: Row[Any], status: JobStatus) -> dict[str, Any]:
    """The columns of a job that ended."""
    values: dict[str, Any] = {"status": status.phase.value, "finished_at": status.since, "scripts": "{}"}
    if status.started_at is not None and row.started_at is None:
        values["started_at"] = status.started_at
        add_job_event(session, STARTED, row)
    error = None
    if status.phase is Phase.FAILED:
        error = {"code": status.code, "message": status.reason}
        values |= {"error_code": status.code, "error_message": status.reason}
    session.run(delete(batch_job_files).where(batch_job_files.c.batch_job_id == row.id))
    add_job_event(session, FINISHED, row, status=status.phase.value, error=error)
    return values


def delete_row(database: Database, row: Row[Any]) -> None:
    """Delete the row of a job that is gone, with its results.

    Files of one that had ended remain. What it left on a worker cluster is removed: no event tells of it later.
    """
    job_id = row.id

    def remove(session: WriteSession) -> None:
        now = session.first(select(batch_jobs).where(batch_jobs.c.id == job_id).with_for_update())
        if now is None:
            return
        if now.finished_at is None:
            discard_results(session, job_id)
        if now.cluster_id is not None:
            note_leftovers(session, [port_id(now)], now.cluster_id)
        for table in (batch_job_files, batch_job_results):
            session.run(delete(table).where(table.c.batch_job_id == job_id))
        session.run(delete(batch_jobs).where(batch_jobs.c.id == job_id))

    database.transact(remove)
