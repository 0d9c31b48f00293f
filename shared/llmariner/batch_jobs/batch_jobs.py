"""The batch jobs of projects: created, listed, canceled, deleted. `reconciler` makes the jobs port run them."""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, update

from llmariner.audit import log
from llmariner.batch_jobs.batch_job import BatchJob, BatchJobResult, NewBatchJob
from llmariner.batch_jobs.events import CHANGE_REQUESTED, DELETED, QUEUED, RESUMED, add_job_event
from llmariner.batch_jobs.job_ports import JobPorts
from llmariner.batch_jobs.placement import choose_place
from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.result_files import results_of
from llmariner.batch_jobs.tables import batch_job_files, batch_jobs
from llmariner.clusters.tables import clusters
from llmariner.errors import Conflict, InvalidRequest, NotFound, Unavailable
from llmariner.files.quotas import lock_usage
from llmariner.files.tables import files
from llmariner.identifiers import new_id
from llmariner.job_placement.places import JobPlaces
from llmariner.job_placement.worker_clusters import WorkerClusters
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.jobs import Execution, Jobs, JobStatus, LogPart, Phase
from llmariner.platform.kube.errors import ClusterError
from llmariner.showback.budgets import check_compute_budgets
from llmariner.tenancy.principal import Caller

__all__ = ["BatchJobs", "load_job"]

_ACTIVE = (Phase.QUEUED.value, Phase.RUNNING.value, Phase.PAUSED.value)
_MAX_NAME_BYTES = 255
_MAX_PROGRAM_BYTES = 16_384
_MAX_PROGRAM_ARGUMENTS = 1000
_MAX_STDIN_BYTES = 1_000_000
_MAX_LOGGED = 1000
# Without the scripts, which may have a megabyte.
_COLUMNS = [
    *(column for column in batch_jobs.c if column.name != "scripts"),
    select(clusters.c.name).where(clusters.c.id == batch_jobs.c.cluster_id).scalar_subquery().label("cluster_name"),
]


class BatchJobs:
    """The jobs of one installation. `project_id` limits a call to that project; others' jobs are NotFound.

    `jobs` returns the jobs port or raises Unavailable where the installation has none. All methods block.
    """

    def __init__(
        self,
        database: Database,
        settings: JobSettings,
        jobs: Callable[[], Jobs],
        workers: WorkerClusters | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._places = JobPlaces(jobs, workers)
        self._ports = JobPorts(database, self._places)

    def create(self, caller: Caller, new: NewBatchJob) -> BatchJob:
        """Create a job, which is queued. Raises InvalidRequest, NotFound for a file, Conflict for too many jobs.

        InsufficientQuota where a budget is spent that compute counts in, Unavailable where nothing would run it.
        """
        owner = caller.key_owner
        choose = choose_place(self._places, self._settings, owner, new)
        job_id = new_id("bj").replace("_", "-")
        row = _row(caller, job_id, new)

        def insert(session: WriteSession) -> BatchJob:
            # Deletions of files take this lock too, so none that is found below is deleted before the job uses it.
            lock_usage(session, owner.project_id, owner.organization_id)
            self._check_files(session, owner.project_id, new.data_files)
            self._check_number(session, owner.project_id)
            check_compute_budgets(session, owner)
            session.add(batch_jobs, **row, **choose(session))
            place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
            for file_id in new.data_files:
                session.add(batch_job_files, batch_job_id=job_id, file_id=file_id, **place)
            job = load_job(session, owner.project_id, job_id)
            add_job_event(session, QUEUED, job)
            add_job_event(session, CHANGE_REQUESTED, job, change="run")
            log.append_entry(session, caller, "batch_job.created", {"id": job_id}, **place)
            return BatchJob.from_row(job)

        return self._database.transact(insert)

    def page(self, project_id: str, *, after: str | None, limit: int) -> tuple[list[BatchJob], bool]:
        """Up to `limit` jobs, newest first, and whether more follow. `after`: the id of a job that exists or existed."""
        query = select(*_COLUMNS).where(batch_jobs.c.project_id == project_id, batch_jobs.c.deleted_at.is_(None))
        if after is not None:
            query = query.where(batch_jobs.c.id < after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(batch_jobs.c.id.desc()).limit(limit + 1))
            results = _results(session, rows[:limit])
        away: dict[str, str] = {}
        return [self._with_place(row, results[row.id], away) for row in rows[:limit]], len(rows) > limit

    def count(self, project_id: str) -> int:
        """The number of jobs on all pages."""
        query = select(func.count()).select_from(batch_jobs)
        with self._database.read() as session:
            found = session.value(query.where(batch_jobs.c.project_id == project_id, batch_jobs.c.deleted_at.is_(None)))
        return int(found)

    def get(self, project_id: str, job_id: str) -> BatchJob:
        """One job. NotFound."""
        with self._database.read() as session:
            row = load_job(session, project_id, job_id)
            results = _results(session, [row])
        return self._with_place(row, results[row.id])

    def cancel(self, caller: Caller, job_id: str) -> BatchJob:
        """Ask for the end of a job, which follows soon. No effect on one that has ended. NotFound."""
        owner = caller.key_owner

        def request(session: WriteSession) -> Row[Any]:
            job = load_job(session, owner.project_id, job_id, lock=True)
            if job.status not in _ACTIVE or job.cancel_requested_at is not None:
                return job
            session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(cancel_requested_at=time.time()))
            add_job_event(session, CHANGE_REQUESTED, job, change="cancel")
            canceled = load_job(session, owner.project_id, job_id)
            place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
            log.append_entry(session, caller, "batch_job.canceled", {"id": job_id}, **place)
            return canceled

        return self._with_results(self._database.transact(request))

    def pause(self, caller: Caller, job_id: str) -> BatchJob:
        """Ask that a job does not run until it is resumed. Conflict for one that ended, or runs and may not run again."""
        owner = caller.key_owner

        def request(session: WriteSession) -> Row[Any]:
            job = load_job(session, owner.project_id, job_id, lock=True)
            if job.status not in _ACTIVE or job.cancel_requested_at is not None:
                raise _wrong_state(job, "paused")
            if job.pause_requested_at is not None:
                return job
            if job.status == Phase.RUNNING and job.backoff_limit == 0:
                raise Conflict(
                    f"The job '{job_id}' runs, and a pause would end its command: only one whose 'backoff_limit' allows "
                    "that it is started again can be paused then. Cancel it, or wait.",
                    code="not_restartable",
                )
            return self._set_pause(session, caller, job, time.time())

        return self._with_place(self._database.transact(request))

    def resume(self, caller: Caller, job_id: str) -> BatchJob:
        """Queue a paused job again, whose command then begins from its start. Conflict for one that ended."""
        owner = caller.key_owner

        def request(session: WriteSession) -> Row[Any]:
            job = load_job(session, owner.project_id, job_id, lock=True)
            if job.status not in _ACTIVE or job.cancel_requested_at is not None:
                raise _wrong_state(job, "resumed")
            if job.pause_requested_at is None:
                return job
            return self._set_pause(session, caller, job, None)

        return self._with_place(self._database.transact(request))

    @staticmethod
    def _set_pause(session: WriteSession, caller: Caller, job: Row[Any], at: float | None) -> Row[Any]:
        """Ask for a pause or its end; returns the changed row."""
        values: dict[str, Any] = {"pause_requested_at": at}
        if at is None and job.status == Phase.PAUSED:
            values["status"] = Phase.QUEUED.value
        if at is None:
            add_job_event(session, RESUMED, job)
        session.run(update(batch_jobs).where(batch_jobs.c.id == job.id).values(**values))
        add_job_event(session, CHANGE_REQUESTED, job, change="resume" if at is None else "pause")
        place = {"project_id": job.project_id, "organization_id": job.organization_id}
        what = "batch_job.resumed" if at is None else "batch_job.paused"
        log.append_entry(session, caller, what, {"id": job.id}, **place)
        return load_job(session, job.project_id, job.id)

    def exec(self, caller: Caller, job_id: str, argv: Sequence[str], stdin: bytes) -> Execution:
        """Start a program in a running job; the caller closes it. InvalidRequest, NotFound, Conflict, RateLimited."""
        owner = caller.key_owner
        _check_program(argv, stdin)

        def note(session: WriteSession) -> None:
            job = load_job(session, owner.project_id, job_id)
            if job.status != Phase.RUNNING and not (has_begun and job.status == Phase.QUEUED):
                raise Conflict(f"The job '{job_id}' does not run: its status is {job.status}.", code="job_not_running")
            place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
            entry = {"id": job_id, "command": shlex.join(argv)[:_MAX_LOGGED]}
            log.append_entry(session, caller, "batch_job.program_started", entry, **place)

        with self._database.read() as session:
            row = load_job(session, owner.project_id, job_id)
        port, name = self._ports.of(job_id)
        # Its row may be a minute behind a worker cluster.
        waits = row.cluster_id is not None and row.status == Phase.QUEUED and not row.pause_requested_at
        found = port.status(name) if waits else None
        has_begun = found is not None and found.phase is Phase.RUNNING
        self._database.transact(note)
        return port.exec(name, argv, stdin)

    def delete(self, caller: Caller, job_id: str) -> BatchJob:
        """Delete a job, which ends if it runs; returns it as it was. NotFound."""
        owner = caller.key_owner

        def remove(session: WriteSession) -> Row[Any]:
            job = load_job(session, owner.project_id, job_id, lock=True)
            session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(deleted_at=time.time()))
            session.run(delete(batch_job_files).where(batch_job_files.c.batch_job_id == job_id))
            add_job_event(session, DELETED, job)
            add_job_event(session, CHANGE_REQUESTED, job, change="delete")
            place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
            log.append_entry(session, caller, "batch_job.deleted", {"id": job_id}, **place)
            return job

        return BatchJob.from_row(self._database.transact(remove))

    def log(self, project_id: str, job_id: str, start: int) -> LogPart:
        """Some output of a job from byte `start` on. NotFound.

        Unavailable where nothing runs jobs: whatever ran it had its output.
        """
        with self._database.read() as session:
            load_job(session, project_id, job_id)
        return self.output(job_id, start)

    def output(self, job_id: str, start: int) -> LogPart:
        """As `log`, without a look at the database: for a caller who may read it."""
        port, name = self._ports.of(job_id)
        return port.log(name, start)

    def output_has_ended(self, project_id: str, job_id: str) -> bool:
        """Whether a job writes no more. Asks the database only where what runs jobs does not know. NotFound."""
        port, name = self._ports.of(job_id)
        status = port.status(name)
        if status is not None:
            return status.phase.is_final
        with self._database.read() as session:
            return Phase(load_job(session, project_id, job_id).status).is_final

    def _with_place(
        self, row: Row[Any], results: Sequence[BatchJobResult] = (), away: dict[str, str] | None = None
    ) -> BatchJob:
        """`away`: clusters that did not answer a moment ago, and why."""
        live: JobStatus | None = None
        if row.status == Phase.QUEUED and away and row.cluster_id in away:
            live = JobStatus(Phase.QUEUED, row.created_at, reason=away[row.cluster_id])
        elif row.status == Phase.QUEUED:
            try:
                live = self._ports.of_row(row).status(port_id(row))
            except (Unavailable, NotFound, ClusterError) as error:
                live = JobStatus(Phase.QUEUED, row.created_at, reason=error.message)
                if away is not None and row.cluster_id is not None:
                    away[row.cluster_id] = error.message
        return BatchJob.from_row(row, live, results)

    def _with_results(self, row: Row[Any]) -> BatchJob:
        with self._database.read() as session:
            results = _results(session, [row])
        return self._with_place(row, results[row.id])

    def _check_files(self, session: ReadSession, project_id: str, ids: Sequence[str]) -> None:
        alive = or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
        query = select(files).where(files.c.id.in_(ids), files.c.project_id == project_id, alive)
        found = {row.id: row for row in session.rows(query)} if ids else {}
        if missing := [each for each in ids if each not in found]:
            shown = ", ".join(f"'{each[:64]}'" for each in missing[:5])
            raise NotFound(f"No such file: {shown}. List those of your project with GET /v1/files.", param="data_files")
        names: set[str] = set()
        for file in found.values():
            if file.filename in names or len(file.filename.encode()) > _MAX_NAME_BYTES:
                problem = "another data file has that name" if file.filename in names else "the name is too long"
                raise InvalidRequest(
                    f"The file '{file.id}' can't be 'data/{file.filename[:64]}': {problem}. Upload it under another name.",
                    param="data_files",
                )
            names.add(file.filename)
        size = sum(file.size_bytes for file in found.values())
        if size > self._settings.disk_bytes:
            raise InvalidRequest(
                f"The data files have {size} bytes together, and a job may have {self._settings.disk_bytes} on disk.",
                param="data_files",
                code="data_too_large",
            )

    def _check_number(self, session: ReadSession, project_id: str) -> None:
        active = select(func.count()).select_from(batch_jobs)
        number = session.value(
            active.where(
                batch_jobs.c.project_id == project_id,
                batch_jobs.c.status.in_(_ACTIVE),
                batch_jobs.c.deleted_at.is_(None),
            )
        )
        if number >= self._settings.project_jobs:
            raise Conflict(
                f"Your project has {number} jobs that have not ended, as many as it may have: wait for one, or cancel one.",
                code="too_many_jobs",
            )


def load_job(session: ReadSession, project_id: str, job_id: str, *, lock: bool = False) -> Row[Any]:
    """A row without its scripts. NotFound. `lock`: until the transaction ends."""
    query = select(*_COLUMNS).where(
        batch_jobs.c.id == job_id, batch_jobs.c.project_id == project_id, batch_jobs.c.deleted_at.is_(None)
    )
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(
            f"No such batch job: '{job_id[:64]}'. List those of your project with GET /v1/batch/jobs.", param="id"
        )
    return row


def _results(session: ReadSession, rows: Sequence[Row[Any]]) -> dict[str, list[BatchJobResult]]:
    """The result files of each of these jobs, by its id."""
    found: dict[str, list[BatchJobResult]] = {row.id: [] for row in rows}
    for each in results_of(session, [row.id for row in rows if row.finished_at is not None]):
        found[each.batch_job_id].append(BatchJobResult(each.file_id, each.name, each.size_bytes))
    return found


def _wrong_state(job: Row[Any], what: str) -> Conflict:
    state = "it is being canceled" if job.cancel_requested_at is not None else f"its status is {job.status}"
    return Conflict(f"The job '{job.id}' can't be {what}: {state}.", code="invalid_job_status")


def _check_program(argv: Sequence[str], stdin: bytes) -> None:
    if not argv or not argv[0]:
        raise InvalidRequest('\'command\' must name a program: send a list such as ["ls", "-l"].', param="command")
    try:
        size = sum(len(each.encode()) for each in argv)
    except UnicodeEncodeError as error:
        raise InvalidRequest("'command' must be valid Unicode.", param="command") from error
    if size > _MAX_PROGRAM_BYTES or len(argv) > _MAX_PROGRAM_ARGUMENTS:
        raise InvalidRequest(
            f"'command' may have {_MAX_PROGRAM_BYTES} bytes and {_MAX_PROGRAM_ARGUMENTS} arguments, not {size} and "
            f"{len(argv)}.",
            param="command",
        )
    if any("\0" in each for each in argv):
        raise InvalidRequest("'command' must not contain a NUL character.", param="command")
    if len(stdin) > _MAX_STDIN_BYTES:
        raise InvalidRequest(f"'stdin' may have {_MAX_STDIN_BYTES} bytes, not {len(stdin)}.", param="stdin")


def _row(caller: Caller, job_id: str, new: NewBatchJob) -> dict[str, Any]:
    scripts = {name: base64.b64encode(content).decode() for name, content in new.scripts.items()}
    return {
        "id": job_id,
        "organization_id": caller.key_owner.organization_id,
        "project_id": caller.key_owner.project_id,
        "user_id": caller.user_id,
        "key_id": caller.key_id,
        "image": new.image,
        "command": new.command,
        "envs": json.dumps(dict(new.envs)),
        "scripts": json.dumps(scripts),
        "script_names": json.dumps(sorted(scripts)),
        "data_files": json.dumps(list(new.data_files)),
        "gpu_count": new.gpu_count,
        "worker_count": new.worker_count,
        "backoff_limit": new.backoff_limit,
        "status": Phase.QUEUED.value,
        "created_at": int(time.time()),
    }
