"""Makes the jobs port do what the rows of batch jobs ask for, and the rows say what became of it.

`reconcile` is idempotent and looks at the present state alone, so events may come late, twice or out of order; a periodic
call for every job that has not ended makes up for those that were lost.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from sqlalchemy import Row, and_, or_, select, update

from llmariner.batch_jobs.events import CHANGE_REQUESTED, add_job_event
from llmariner.batch_jobs.job_ports import JobPorts
from llmariner.batch_jobs.moves import MovableBatchJobs
from llmariner.batch_jobs.port_ids import port_id, split_port_id
from llmariner.batch_jobs.result_files import ResultStore, ResultWriter
from llmariner.batch_jobs.status_records import delete_row, record_status
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import NotFound, PlatformError, Unavailable
from llmariner.files.file import File
from llmariner.job_placement.leftovers import submit
from llmariner.job_placement.moves import Moves
from llmariner.job_placement.places import JobPlaces
from llmariner.job_placement.worker_clusters import WorkerClusters
from llmariner.platform.database import Database
from llmariner.platform.database.keyed_walk import KeyedWalk
from llmariner.platform.jobs import DataFile, Job, Jobs, JobStatus, Network, Phase
from llmariner.platform.kube.errors import ClusterError
from llmariner.tenancy.gone_projects import gone_projects
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["ProjectFiles", "Reconciler"]

_log = logging.getLogger(__name__)
_BATCH = 200
_RESULT_SECONDS = 30.0
"""In which one call makes files of a job's results. A consumer of events has a minute."""
_LOST = "The platform that ran it knows nothing of it any more. Create it again."


class ProjectFiles(ResultStore, Protocol):
    """The part of `files.Files` that this uses."""

    def get_many(self, project_id: str, file_ids: Iterable[str]) -> dict[str, File]:
        """The files of the project with these ids, by id; others are left out."""

    def delete(self, actor: Caller, file_id: str) -> None:
        """Delete a file of the caller's project. Raises PlatformError."""


class Reconciler:
    """See the module. `jobs` and `files` raise Unavailable in an installation without them. `network`: as of `Job`."""

    def __init__(
        self,
        database: Database,
        jobs: Callable[[], Jobs],
        files: Callable[[], ProjectFiles],
        *,
        network: str = Network.MACHINE,
        workers: WorkerClusters | None = None,
        full_seconds: float = 300.0,
    ) -> None:
        self._database = database
        self._network = Network(network)
        self._places = JobPlaces(jobs, workers)
        self._ports = JobPorts(database, self._places)
        movable = MovableBatchJobs(lambda maker, file_id: files().delete(maker, file_id))
        self._moves = Moves(database, self._places, movable, full_seconds)
        self._files = files
        self._results = ResultWriter(database, files)
        self._kept_now: set[str] = set()
        self._lock = threading.Lock()
        pending = or_(batch_jobs.c.finished_at.is_(None), batch_jobs.c.deleted_at.is_not(None))
        self._walk = KeyedWalk(database, batch_jobs.c.id, pending, "batch job")

    def reconcile_all(self, *, seconds: float) -> None:
        """Reconcile every job that has not ended or is deleted, or whose project is gone or archived. For the sweep.

        It ends after that many seconds; the next call does the rest. A job that fails to be reconciled holds up no other.
        """
        _delete_orphans(self._database)
        _cancel_of_archived(self._database)
        self._moves.remove_leftovers()
        self._walk.reconcile_each(self.reconcile, seconds=seconds)

    def reconcile(self, job_id: str) -> None:
        """Bring one job's row and what runs it together. `job_id`: also the id that the port has for it.

        The port forgets an id without a row. A job of a worker cluster that is away waits for it, or begins again elsewhere.
        """
        row_id, _ = split_port_id(job_id)
        with self._database.read() as session:
            row = session.first(select(batch_jobs).where(batch_jobs.c.id == row_id))
        if row is not None and row.cluster_id is not None:
            try:
                self._reconcile_with(self._ports.of_row(row), row)
            except (Unavailable, ClusterError, NotFound) as error:
                self._after_failure(row, error)
            return
        try:
            port = self._places.home()
        except Unavailable:
            if row is not None:
                _reconcile_without_port(self._database, row)
            return
        if row is None:
            port.remove(job_id)
        else:
            self._reconcile_with(port, row)

    def _reconcile_with(self, port: Jobs, row: Row[Any]) -> None:
        name = port_id(row)
        if row.deleted_at is not None:
            port.remove(name)
            delete_row(self._database, row)
        elif row.finished_at is None:
            found = self._converge(port, row)
            changes = row.cancel_requested_at is not None or row.pause_requested_at is not None
            if not changes and self._moves.away_from_full(port, row, found, name):
                return
            if found.phase.is_final:
                self._end(port, row, found)
            else:
                record_status(self._database, row, found)
        elif (status := port.status(name)) is not None and not status.phase.is_final:
            port.cancel(name)  # its row ended while this port was not there

    def _after_failure(self, row: Row[Any], error: PlatformError | ClusterError) -> None:
        """What becomes of a job whose cluster can't be asked.

        It waits. Once the cluster is lost, or has lasted too long with a refusal, it ends, pauses, or begins elsewhere.
        """
        _log.warning("batch job %s: its cluster %s can't be asked: %s", row.id, row.cluster_id, error)
        if row.deleted_at is not None:
            delete_row(self._database, row)
        elif row.finished_at is not None or not self._moves.is_over(row, error):
            return
        elif row.cancel_requested_at is not None:
            self._database.transact(lambda session: self._moves.leave(session, row))
            record_status(self._database, row, JobStatus(Phase.CANCELED, time.time(), row.started_at))
        elif row.pause_requested_at is not None:
            record_status(self._database, row, JobStatus(Phase.PAUSED, time.time()))
        elif gone := self._moves.away_from_lost(row):
            status = JobStatus(Phase.FAILED, time.time(), row.started_at, code="cluster_gone", reason=gone)
            record_status(self._database, row, status)

    def _end(self, port: Jobs, row: Row[Any], found: JobStatus) -> None:
        """Keep the results of a job that has ended, then say so in its row. Does nothing while another call is at it.

        Two at once would count a file twice against a quota, and one would end the job without the results that are left.
        Only home has results to keep, on the disk of the one process that runs its jobs.
        """
        with self._lock:
            if row.id in self._kept_now:
                return
            self._kept_now.add(row.id)
        try:
            problem = self._results.keep(port, row, seconds=_RESULT_SECONDS)
            if problem is None:
                self._database.transact(lambda session: add_job_event(session, CHANGE_REQUESTED, row, change="run"))
                return
            record_status(self._database, row, found, problem)
            port.delete_results(port_id(row))
        finally:
            with self._lock:
                self._kept_now.discard(row.id)

    def _converge(self, port: Jobs, row: Row[Any]) -> JobStatus:
        """Let the port do what the row asks for; returns the job's status then."""
        name = port_id(row)
        if row.cancel_requested_at is not None:
            port.cancel(name)
        elif row.pause_requested_at is not None:
            port.pause(name)
        status = port.status(name)
        if status is not None and status.phase is Phase.PAUSED and row.pause_requested_at is None:
            port.resume(name)
            status = port.status(name)
        if status is not None:
            if status.phase is Phase.FAILED:
                port.cancel(name)  # what can't start may still wait for it, and hold its quota
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
        return self._submit(port, row, [found[each] for each in ids])

    def _submit(self, port: Jobs, row: Row[Any], data_files: Sequence[File]) -> JobStatus:
        def is_current() -> bool:
            with self._database.read() as session:
                now = session.first(select(batch_jobs.c.placement).where(batch_jobs.c.id == row.id))
            return now is not None and bool(now.placement == row.placement)

        return submit(port, _job(row, data_files, network=self._network), is_current)


def _reconcile_without_port(database: Database, row: Row[Any]) -> None:
    """Nothing runs jobs in this installation any more: what ran has ended, and what is queued can be canceled."""
    if row.deleted_at is not None:
        delete_row(database, row)
    elif row.finished_at is None and row.cancel_requested_at is not None:
        record_status(database, row, JobStatus(Phase.CANCELED, time.time(), row.started_at))
    elif row.finished_at is None and row.status == Phase.RUNNING:
        lost = JobStatus(Phase.FAILED, time.time(), row.started_at, code="interrupted", reason=_LOST)
        record_status(database, row, lost)


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


def _job(row: Row[Any], files: Sequence[File], *, network: Network) -> Job:
    scripts = {name: base64.b64decode(content) for name, content in json.loads(row.scripts).items()}
    return Job(
        id=port_id(row),
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
