"""Makes the jobs port do what the rows of batch jobs ask for, and the rows say what became of it.

`reconcile` is idempotent and looks at the present state alone, so events may come late, twice or out of order; a periodic
call for every job that has not ended makes up for those that were lost.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Row, and_, delete, or_, select, update

from llmariner.batch_jobs.events import FINISHED, PAUSED, REQUEUED, STARTED, add_job_event
from llmariner.batch_jobs.result_files import ResultStore, ResultWriter
from llmariner.batch_jobs.result_uploads import settle_uploads
from llmariner.batch_jobs.tables import batch_job_files, batch_job_results, batch_jobs
from llmariner.errors import Unavailable
from llmariner.files.file import File
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.keyed_walk import KeyedWalk
from llmariner.platform.jobs import DataFile, Job, Jobs, JobStatus, Network, Phase
from llmariner.tenancy.gone_projects import gone_projects
from llmariner.tenancy.tables import projects

__all__ = ["ProjectFiles", "Reconciler"]

_BATCH = 200
_LOST = "The platform that ran it knows nothing of it any more. Create it again."


class ProjectFiles(ResultStore, Protocol):
    """The part of `files.Files` that this uses."""

    def get_many(self, project_id: str, file_ids: Iterable[str]) -> dict[str, File]:
        """The files of the project with these ids, by id; others are left out."""


class Reconciler:
    """See the module. `jobs` and `files` raise Unavailable in an installation without them. `network`: as of `Job`."""

    def __init__(
        self,
        database: Database,
        jobs: Callable[[], Jobs],
        files: Callable[[], ProjectFiles],
        *,
        network: str = Network.MACHINE,
    ) -> None:
        self._database = database
        self._network = Network(network)
        self._jobs = jobs
        self._files = files
        self._results = ResultWriter(database, files)
        pending = or_(batch_jobs.c.finished_at.is_(None), batch_jobs.c.deleted_at.is_not(None))
        self._walk = KeyedWalk(database, batch_jobs.c.id, pending, "batch job")

    def reconcile_all(self, *, seconds: float) -> None:
        """Reconcile every job that has not ended or is deleted, or whose project is gone or archived. For the sweep.

        It ends after that many seconds; the next call does the rest. A job that fails to be reconciled holds up no other.
        """
        _delete_orphans(self._database)
        _cancel_of_archived(self._database)
        self._walk.reconcile_each(self.reconcile, seconds=seconds)

    def reconcile(self, job_id: str) -> None:
        """Bring one job's row and the jobs port together. The port forgets an id without a row."""
        with self._database.read() as session:
            row = session.first(select(batch_jobs).where(batch_jobs.c.id == job_id))
        try:
            port = self._jobs()
        except Unavailable:
            if row is not None:
                _reconcile_without_port(self._database, row)
            return
        if row is None or row.deleted_at is not None:
            port.remove(job_id)
            if row is not None:
                _delete_row(self._database, job_id)
        elif row.finished_at is None:
            found = self._converge(port, row)
            problem = self._results.keep(port, row) if found.phase.is_final else ""
            _record(self._database, job_id, found, problem)
            if found.phase.is_final:
                port.delete_results(job_id)
        elif (status := port.status(job_id)) is not None and not status.phase.is_final:
            port.cancel(job_id)  # its row ended while this port was not there

    def _converge(self, port: Jobs, row: Row[Any]) -> JobStatus:
        """Let the port do what the row asks for; returns the job's status then."""
        if row.cancel_requested_at is not None:
            port.cancel(row.id)
        elif row.pause_requested_at is not None:
            port.pause(row.id)
        status = port.status(row.id)
        if status is not None and status.phase is Phase.PAUSED and row.pause_requested_at is None:
            port.resume(row.id)
            status = port.status(row.id)
        if status is not None:
            if status.phase is Phase.FAILED:
                port.cancel(row.id)  # what can't start may still wait for it, and hold its quota
            return status
        if row.status == Phase.RUNNING:
            return JobStatus(Phase.FAILED, time.time(), row.started_at, code="interrupted", reason=_LOST)
        if row.pause_requested_at is not None and row.cancel_requested_at is None:
            return JobStatus(Phase.PAUSED, time.time())
        ids = json.loads(row.data_files)
        found = self._files().get_many(row.project_id, ids) if ids else {}
        if missing := [each for each in ids if each not in found]:
            reason = f"The data file '{missing[0]}' expired before the job began."
            return JobStatus(Phase.FAILED, time.time(), code="data_file_unavailable", reason=reason)
        return port.submit(_job(row, [found[each] for each in ids], network=self._network))


def _reconcile_without_port(database: Database, row: Row[Any]) -> None:
    """Nothing runs jobs in this installation any more: what ran has ended, and what is queued can be canceled."""
    if row.deleted_at is not None:
        _delete_row(database, row.id)
    elif row.finished_at is None and row.cancel_requested_at is not None:
        _record(database, row.id, JobStatus(Phase.CANCELED, time.time(), row.started_at))
    elif row.finished_at is None and row.status == Phase.RUNNING:
        lost = JobStatus(Phase.FAILED, time.time(), row.started_at, code="interrupted", reason=_LOST)
        _record(database, row.id, lost)


def _record(database: Database, job_id: str, status: JobStatus, results_error: str = "") -> None:
    """Write what the port says into the row, unless it has ended, with the event of each change."""

    def change(session: WriteSession) -> None:
        unfinished: ColumnElement[bool] = batch_jobs.c.finished_at.is_(None)
        row = session.first(select(batch_jobs).where(batch_jobs.c.id == job_id, unfinished).with_for_update())
        if row is None or row.deleted_at is not None:
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


def _delete_orphans(database: Database) -> None:
    """Delete the jobs of projects that are gone."""
    with database.read() as session:
        gone = gone_projects(session, batch_jobs.c.project_id, _BATCH)
        of_them = select(batch_jobs.c.id).where(batch_jobs.c.project_id.in_(gone), batch_jobs.c.deleted_at.is_(None))
        ids = [row.id for row in session.rows(of_them.limit(_BATCH))] if gone else []
    if ids:
        with database.write() as session:
            session.run(update(batch_jobs).where(batch_jobs.c.id.in_(ids)).values(deleted_at=time.time()))


def _cancel_of_archived(database: Database) -> None:
    """Cancel the jobs of archived projects: nobody can see them any more."""
    archived = select(projects.c.id).where(projects.c.archived_at.is_not(None))
    left = and_(
        batch_jobs.c.finished_at.is_(None),
        batch_jobs.c.cancel_requested_at.is_(None),
        batch_jobs.c.project_id.in_(archived),
    )
    with database.read() as session:
        ids = [row.id for row in session.rows(select(batch_jobs.c.id).where(left).limit(_BATCH))]
    if ids:
        with database.write() as session:
            session.run(update(batch_jobs).where(batch_jobs.c.id.in_(ids)).values(cancel_requested_at=time.time()))


def _delete_row(database: Database, job_id: str) -> None:
    def remove(session: WriteSession) -> None:
        for table in (batch_job_files, batch_job_results):
            session.run(delete(table).where(table.c.batch_job_id == job_id))
        session.run(delete(batch_jobs).where(batch_jobs.c.id == job_id))

    database.transact(remove)


def _job(row: Row[Any], files: Sequence[File], *, network: Network) -> Job:
    scripts = {name: base64.b64decode(content) for name, content in json.loads(row.scripts).items()}
    return Job(
        id=row.id,
        image=row.image,
        gpu_count=row.gpu_count,
        worker_count=row.worker_count or 1,
        project_id=row.project_id,
        organization_id=row.organization_id,
        command=row.command,
        environment=json.loads(row.envs),
        scripts=scripts,
        data_files=tuple(DataFile(each.id, each.filename, each.size_bytes) for each in files),
        backoff_limit=row.backoff_limit,
        network=network,
    )
