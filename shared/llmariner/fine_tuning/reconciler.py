"""Makes the jobs port do what the rows of fine-tuning jobs ask for, and ends jobs whose processes ended.

`reconcile` is idempotent and looks at the present state alone, so events may come late, twice or out of order; a periodic
call for every job that is not released makes up for those that were lost. Where a process ended through no fault of its
own, another attempt continues from the last state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, and_, delete, select, update

from llmariner.errors import Conflict, ModelNotFound, NotFound, PlatformError, Unavailable
from llmariner.files.files import Files
from llmariner.fine_tuning.base_models import base_model
from llmariner.fine_tuning.events import add_message
from llmariner.fine_tuning.form_check import FormCheck, InvalidFile
from llmariner.fine_tuning.job import Stage, Status
from llmariner.fine_tuning.jobs import change_status, end_job, request_change, select_jobs
from llmariner.fine_tuning.port_ids import port_id
from llmariner.fine_tuning.program import COMMAND, WEIGHTS_COMMAND, archive
from llmariner.fine_tuning.promotions import Promotions
from llmariner.fine_tuning.reports import fail_file
from llmariner.fine_tuning.results import Results
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.fine_tuning.worker_tokens import WorkerTokens
from llmariner.fine_tuning.workers import WorkerAddresses
from llmariner.job_placement.leftovers import submit
from llmariner.job_placement.moves import Moves
from llmariner.job_placement.places import JobPlaces
from llmariner.models.model import LoadingStatus, Model
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.keyed_walk import KeyedWalk
from llmariner.platform.jobs import Job, Jobs, JobStatus, Phase
from llmariner.platform.kube.errors import ClusterError
from llmariner.tenancy.gone_projects import gone_projects
from llmariner.tenancy.tables import projects

__all__ = ["FineTuningReconciler"]

_log = logging.getLogger(__name__)
_BATCH = 200
_CHECK_SECONDS = 20.0
_PAUSE_SECONDS = 900.0
"""For the present step and a state. A process that has not paused by then is ended: a budget may be spent."""
_MAX_FAILURES = 3
"""In a row: a state that is further than the one before begins a new count."""
_RETRIED = ("interrupted", "evicted", "killed", "data_file_unavailable", "weights_unavailable")
"""Causes for which another attempt may end better."""
_OUT_OF_TIME = "deadline_exceeded"
"""A training has had its turn then, and continues from its last state after those that wait."""
_NOBODYS_FAULT = ("interrupted", "evicted")


class FineTuningReconciler:
    """See the module. `files` raises Unavailable in an installation without them. `addresses`: as of `Workers`."""

    def __init__(
        self,
        database: Database,
        registry: ModelRegistry,
        places: JobPlaces,
        moves: Moves,
        files: Callable[[], Files],
        tokens: WorkerTokens,
        addresses: Callable[[str | None], WorkerAddresses],
    ) -> None:
        self._database = database
        self._registry = registry
        self._places = places
        self._moves = moves
        self._files = files
        self._tokens = tokens
        self._addresses = addresses
        self._promotions = Promotions(database, registry)
        self._walk = KeyedWalk(
            database, fine_tuning_jobs.c.id, fine_tuning_jobs.c.released.is_(False), "fine-tuning job"
        )

    def reconcile_all(self, *, seconds: float) -> None:
        """Reconcile every job that is not released. For the sweep.

        It ends after that many seconds; the next call does the rest. A job that fails to be reconciled holds up no other.
        """
        self._end_of_gone_projects()
        self._delete_late_results()
        self._moves.remove_leftovers()
        self._walk.reconcile_each(self.reconcile, seconds=seconds)

    def reconcile(self, job_id: str) -> None:
        """Bring one job's row and what runs it together.

        A job of a worker cluster that is away waits for it, or continues elsewhere.
        """
        with self._database.read() as session:
            job = session.first(select_jobs().where(fine_tuning_jobs.c.id == job_id))
        if job is None:
            return
        if job.result_file is not None and not _is_idle(job):
            self._finish(job)  # no process is needed any more, whatever became of it
        elif job.cluster_id is not None:
            try:
                self._reconcile_with(self._places.port(job.cluster_id), job)
            except (Unavailable, ClusterError, NotFound) as error:
                self._after_failure(job, error)
        else:
            try:
                port = self._places.port(None)
            except Unavailable:
                return  # what ran has ended with its platform; the jobs wait for another
            self._reconcile_with(port, job)

    def _reconcile_with(self, port: Jobs, job: Row[Any]) -> None:
        if job.released:
            _remove_late(port, job)
        elif _is_idle(job):
            self._release(port, job)
        elif job.status == Status.VALIDATING_FILES and port.status(port_id(job)) is None:
            self._validate(port, job)
        else:
            self._converge(port, job)

    def _after_failure(self, job: Row[Any], error: PlatformError | ClusterError) -> None:
        """What becomes of a job whose cluster can't be asked: it waits, and continues elsewhere once the cluster is lost."""
        _log.warning("fine-tuning job %s: its cluster %s can't be asked: %s", job.id, job.cluster_id, error)
        if job.released or not self._moves.is_over(job, error):
            return
        if _is_idle(job):
            self._delete_leftovers(job)
            self._note_release(job)
        elif self._base_model(job) is None:
            return  # no cluster continues it
        elif job.pause_requested_at is not None:
            self._change(job, _pause)
        elif gone := self._moves.away_from_lost(job):
            self._fail(job, "cluster_gone", gone)

    def _delete_leftovers(self, job: Row[Any]) -> None:
        """Delete the files that nobody needs any more of a job that has ended."""
        if job.status != Status.PAUSED:
            Results(self._database, self._files()).delete_leftovers(job)

    def _release(self, port: Jobs, job: Row[Any]) -> None:
        """End the process of a job that has ended or is paused, and delete what nobody needs any more."""
        _remove_attempts(port, job, job.attempt)
        self._delete_leftovers(job)
        self._note_release(job)

    def _note_release(self, job: Row[Any]) -> None:
        """Note that a job that has ended or is paused has nothing more to do where it is.

        A worker cluster tells of nothing that is submitted later.
        """

        def change(session: WriteSession) -> None:
            c = fine_tuning_jobs.c
            same = and_(c.id == job.id, c.attempt == job.attempt, c.status == job.status)
            if session.first(select(c.id).where(same).with_for_update()) is not None:
                if job.cluster_id is not None:
                    self._moves.leave(session, job)
                session.run(update(fine_tuning_jobs).where(c.id == job.id).values(released=True))

        self._database.transact(change)

    def _validate(self, port: Jobs, job: Row[Any]) -> None:
        """Check the form of the files, then have a process count their tokens."""
        try:
            complete = FormCheck(self._database, self._files()).run(job, seconds=_CHECK_SECONDS)
        except InvalidFile as fault:
            param, message = fault.param, str(fault)
            self._change(job, lambda session, found: fail_file(session, found, param, message))
            return
        if complete:
            self._submit(port, job)
        else:
            self._change(job, request_change)

    def _submit(self, port: Jobs, job: Row[Any]) -> None:
        model = self._base_model(job)
        if model is None:
            return
        _remove_attempts(port, job, job.attempt - 1)
        environment = {
            "LLMARINER_TRAINING_URL": f"{self._addresses(job.cluster_id).workers}/v1/fine_tuning/workers/{job.id}",
            "LLMARINER_TRAINING_TOKEN": self._tokens.issue(job),
            "HF_HUB_OFFLINE": "1",
        }
        brief = job.stage == Stage.CHECK
        workers = 1 if brief else job.worker_count or 1
        if workers > 1:
            environment["LLMARINER_TRAINING_WORKERS"] = str(workers)
        what: dict[str, Any] = {
            "weights": model.folder,
            "weights_bytes": model.size_bytes,
            "weights_command": WEIGHTS_COMMAND,
        }
        if model.folder.startswith("/"):
            what = {"readable_folders": (model.folder,)}
        what |= {
            "organization_id": job.organization_id,
            "brief": brief,
            "worker_count": workers,
            "starts_workers": True,
        }

        def is_current() -> bool:
            with self._database.read() as session:
                found = session.first(select_jobs().where(fine_tuning_jobs.c.id == job.id))
            return found is not None and found.attempt == job.attempt and not _is_idle(found)

        submit(port, Job(port_id(job), job.project_id, COMMAND, environment, archive(), **what), is_current)

    def _base_model(self, job: Row[Any]) -> Model | None:
        """The base model of a job; None where it is gone, which ends the job."""
        try:
            return base_model(self._registry, job)
        except Conflict as gone:
            self._fail(job, str(gone.code), gone.message)
            return None

    def _converge(self, port: Jobs, job: Row[Any]) -> None:
        # Its process finds that out at the next checkpoint, and ends without a reason.
        if self._base_model(job) is None:
            return
        status = port.status(port_id(job))
        if status is None and job.status == Status.QUEUED and job.pause_requested_at is not None:
            self._change(job, _pause)  # which was asked for while another process queued it
        elif status is None and job.status == Status.QUEUED:
            self._submit(port, job)
        elif status is None:
            self._try_again(port, job, JobStatus(Phase.FAILED, time.time(), code="interrupted"))
        elif status.phase.is_final:
            self._try_again(port, job, status)
        elif self._moves.away_from_full(port, job, status, port_id(job)):
            return
        elif status.phase is Phase.QUEUED and job.status == Status.RUNNING:
            reason = status.reason
            self._change(job, lambda session, found: _wait_again(session, found, reason))
        elif job.pause_requested_at is not None and time.time() - job.pause_requested_at > _PAUSE_SECONDS:
            self._change(job, _pause)

    def _finish(self, job: Row[Any]) -> None:
        """End a job whose adapter is made, once the model is loaded."""
        try:
            model: Model | None = self._registry.get(job.output_model, project_id=job.project_id)
        except ModelNotFound:
            model = None
        if model is not None and model.loaded:
            self._succeed(job, model)
        elif model is None or model.loading_status is LoadingStatus.FAILED:
            why = "it was deleted" if model is None else model.loading_failure_reason
            self._fail(job, "model_not_loaded", f"The model was trained, but can't be used: {why}")

    def _succeed(self, job: Row[Any], model: Model) -> None:
        maker = None if job.promotion is None else self._promotions.maker(job)

        def change(session: WriteSession, found: Row[Any]) -> None:
            end_job(session, found, Status.SUCCEEDED)
            add_message(session, found, f"New fine-tuned model created: {found.output_model}")
            add_message(session, found, "The job has successfully completed")
            if maker is not None:  # last, since it locks the registry and the audit log
                self._promotions.decide(session, found, model, maker)

        self._change(job, change)

    def _try_again(self, port: Jobs, job: Row[Any], status: JobStatus) -> None:
        """Queue another attempt, or end the job, after its process ended without a result."""
        counts = 0 if status.code in _NOBODYS_FAULT else 1
        retried = status.code in _RETRIED or (status.code == _OUT_OF_TIME and job.stage == Stage.TRAIN)
        if (status.phase is Phase.FAILED and not retried) or job.failures + counts > _MAX_FAILURES:
            self._fail(job, status.code or "failed", status.reason or "The process ended without a result.")
            return
        if job.pause_requested_at is not None:
            self._change(job, _pause)
            return

        def change(session: WriteSession, found: Row[Any]) -> None:
            checks = found.stage == Stage.CHECK
            again = Status.VALIDATING_FILES if checks else Status.QUEUED
            change_status(session, found, again, attempt=found.attempt + 1, failures=found.failures + counts)
            request_change(session, found)
            if not checks:
                step = found.state_step or 0
                add_message(
                    session, found, f"The process was ended; the job is queued to continue after step {step}", "warn"
                )

        self._change(job, change)

    def _fail(self, job: Row[Any], code: str, message: str) -> None:
        def change(session: WriteSession, found: Row[Any]) -> None:
            end_job(session, found, Status.FAILED, error_code=code, error_message=message)
            add_message(session, found, message, "error")

        self._change(job, change)

    def _change(self, job: Row[Any], change: Callable[[WriteSession, Row[Any]], None]) -> None:
        """Change a job unless it has moved on since it was read."""

        def work(session: WriteSession) -> None:
            query = select_jobs().where(fine_tuning_jobs.c.id == job.id).with_for_update(of=fine_tuning_jobs)
            found = session.first(query)
            if found is not None and (found.status, found.attempt) == (job.status, job.attempt):
                change(session, found)

        self._database.transact(work)

    def _delete_late_results(self) -> None:
        try:
            files = self._files()
        except Unavailable:
            return
        Results(self._database, files).delete_late_results()

    def _end_of_gone_projects(self) -> None:
        """Cancel the jobs of archived projects, and forget those of deleted ones: nobody can see them any more."""
        c, active = fine_tuning_jobs.c, fine_tuning_jobs.c.finished_at.is_(None)
        archived = select(projects.c.id).where(projects.c.archived_at.is_not(None))
        with self._database.read() as session:
            rows = session.rows(select_jobs().where(active, c.project_id.in_(archived)).limit(_BATCH))
            named = gone_projects(session, c.project_id, _BATCH)
            gone = (
                session.rows(select(c.id, c.attempt, c.cluster_id).where(c.project_id.in_(named)).limit(_BATCH))
                if named
                else []
            )
        for job in rows:
            self._change(job, lambda session, found: end_job(session, found, Status.CANCELLED))
        for job in gone:
            self._forget(job)

    def _forget(self, job: Row[Any]) -> None:
        if job.cluster_id is None:
            try:
                port = self._places.port(None)
            except Unavailable:
                return
            _remove_attempts(port, job, job.attempt)
        with self._database.write() as session:
            if job.cluster_id is not None:
                self._moves.leave(session, job)
            session.run(delete(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id))


def _remove_attempts(port: Jobs, job: Row[Any], last: int) -> None:
    """End the processes of the attempts up to one.

    A job that was paused and resumed several times since it was reconciled has attempts that never began, and one before
    them that did.
    """
    for attempt in range(last + 1):
        named = f"{job.id}-{attempt}"
        if attempt >= last - 1 or port.status(named) is not None:
            port.remove(named)


def _remove_late(port: Jobs, job: Row[Any]) -> None:
    """End what was submitted for a job after its release, by a process that was killed before it saw that."""
    if port.status(port_id(job)) is not None:
        port.remove(port_id(job))


def _is_idle(job: Row[Any]) -> bool:
    """Whether a job is to have no process."""
    return Status(job.status).is_final or bool(job.status == Status.PAUSED)


def _wait_again(session: WriteSession, job: Row[Any], reason: str) -> None:
    """Note that a job's pods were ended, whose successors continue as the same attempt."""
    if job.pause_requested_at is not None:
        _pause(session, job)
        return
    change_status(session, job, Status.QUEUED)
    step = job.state_step or 0
    add_message(session, job, f"The job was interrupted, and continues after step {step}. {reason}", "warn")


def _pause(session: WriteSession, job: Row[Any]) -> None:
    change_status(session, job, Status.PAUSED, pause_requested_at=None, released=False)
    request_change(session, job)
    add_message(session, job, "The job is paused.")
