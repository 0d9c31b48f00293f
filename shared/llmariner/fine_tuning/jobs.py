"""The fine-tuning jobs of projects: created, listed, canceled, paused, resumed. `reconciler` has the jobs port run them."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, or_, select, update

from llmariner.audit import log
from llmariner.clusters.tables import clusters
from llmariner.errors import Conflict, InsufficientQuota, InvalidRequest, ModelNotFound, NotFound, Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files.purposes import Purpose
from llmariner.files.quotas import lock_usage
from llmariner.files.tables import files
from llmariner.fine_tuning.charges import check_budgets, tokens_of_job
from llmariner.fine_tuning.checkpoint_names import MAX_ADDED
from llmariner.fine_tuning.events import CHANGE_REQUESTED, CREATED, STATUS_CHANGED, add_job_event, add_message
from llmariner.fine_tuning.integrations import add_runs, check_integrations, request_tracking
from llmariner.fine_tuning.job import GRADER_FIELD, FineTuningJob, NewFineTuningJob, Stage, Status
from llmariner.fine_tuning.placement import choose_place, not_trainable
from llmariner.fine_tuning.port_ids import port_id
from llmariner.fine_tuning.promotion import GATE_GRADER
from llmariner.fine_tuning.promotions import Promotions
from llmariner.fine_tuning.requirements import TrainingSize, problem_of_model
from llmariner.fine_tuning.tables import (
    fine_tuning_files,
    fine_tuning_grades,
    fine_tuning_jobs,
    fine_tuning_metadata,
)
from llmariner.fine_tuning.trained_models import check_number_of_trained_models
from llmariner.identifiers import new_id
from llmariner.job_placement.places import JobPlaces
from llmariner.job_placement.worker_clusters import WorkerClusters
from llmariner.job_settings import JobSettings
from llmariner.models.model import Model, Task
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.jobs import Jobs, JobStatus, Phase
from llmariner.platform.kube.errors import ClusterError
from llmariner.showback.budgets import check_compute_budgets
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.tables import organizations, projects
from llmariner.tracking_settings import TrackingSettings

__all__ = ["FineTuningJobs", "change_status", "end_job", "load_job", "request_change", "select_jobs"]

_ACTIVE = (Status.VALIDATING_FILES, Status.QUEUED, Status.RUNNING)
_MAX_MODEL_NAME = 200


class FineTuningJobs:
    """The jobs of one installation. `project_id` limits a call to that project; others' jobs are NotFound.

    `jobs` returns the jobs port or raises Unavailable where the installation has none. `serves_whole_models`: as
    of `requirements.problem_of_model`. All methods block.
    """

    def __init__(
        self,
        database: Database,
        settings: JobSettings,
        registry: ModelRegistry,
        jobs: Callable[[], Jobs],
        tracking: TrackingSettings,
        upload_bytes: int = FileSettings.upload_bytes,
        workers: WorkerClusters | None = None,
        serves_whole_models: bool = True,
    ) -> None:
        self._database = database
        self._settings = settings
        self._registry = registry
        self._places = JobPlaces(jobs, workers)
        self._tracking = tracking
        self._upload_bytes = upload_bytes
        self._serves_whole_models = serves_whole_models

    def create(self, caller: Caller, new: NewFineTuningJob) -> FineTuningJob:
        """Create a job, whose files are checked next.

        Raises InvalidRequest, NotFound for a model, a file or a cluster, Conflict for too many jobs or trained models, or a
        cluster that can't run it, Unavailable where nothing runs it, InsufficientQuota where a budget is spent that
        compute counts in.
        """
        owner = caller.key_owner
        new.check()
        model = self._registry.get(new.model, project_id=owner.project_id)
        self._check_model(model, new)
        if new.promotion is not None:
            Promotions(self._database, self._registry).check(caller, new.promotion)
        self._check_graders(new, owner.project_id)
        choose = choose_place(self._places, self._settings, owner, new, model)
        job_id = new_id("ftjob").replace("_", "-", 1)

        def insert(session: WriteSession) -> Row[Any]:
            # Deletions of files take this lock too, so none that is found below is deleted before the job uses it.
            lock_usage(session, owner.project_id, owner.organization_id)
            used = [each for each in (new.training_file, new.validation_file) if each is not None]
            self._check_files(session, owner.project_id, new)
            self._check_number(session, owner.project_id)
            check_number_of_trained_models(session, owner.project_id, self._settings.project_trained_models)
            check_compute_budgets(session, owner, by_tokens=True)
            check_integrations(session, owner.project_id, new.integrations, self._tracking)
            session.add(fine_tuning_jobs, **_row(session, caller, job_id, new, model), **choose(session))
            place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
            for file_id in used:
                session.add(fine_tuning_files, job_id=job_id, file_id=file_id, **place)
            for name, value in new.metadata.items():
                session.add(fine_tuning_metadata, job_id=job_id, name=name, value=value, **place)
            job = load_job(session, owner.project_id, job_id)
            add_runs(session, job, self._tracking)
            used_files = {"training_file": new.training_file, "validation_file": new.validation_file}
            add_job_event(session, CREATED, job, model=new.model, **used_files)
            request_change(session, job)
            add_message(session, job, f"Created fine-tuning job: {job_id}")
            add_message(session, job, f"Validating training file: {new.training_file}")
            data = {"model": new.model, "fine_tuned_model": job.output_model, **used_files}
            log.append_entry(session, caller, "fine_tuning_job.created", {"id": job_id, "data": data}, **place)
            return job

        return self._with_place(self._database.transact(insert))

    def page(
        self, project_id: str, *, after: str | None, limit: int, metadata: Mapping[str, str] | None = None
    ) -> tuple[list[FineTuningJob], bool]:
        """Up to `limit` jobs, newest first, and whether more follow. `after`: the id of a job that exists or existed.

        `metadata`: jobs that have all these pairs; empty: those without any; None: all.
        """
        query = select_jobs().where(*_listed(project_id, metadata))
        if after is not None:
            query = query.where(fine_tuning_jobs.c.id < after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(fine_tuning_jobs.c.id.desc()).limit(limit + 1))
        away: dict[str, str] = {}
        return [self._with_place(row, away) for row in rows[:limit]], len(rows) > limit

    def count(self, project_id: str, metadata: Mapping[str, str] | None = None) -> int:
        """The number of jobs on all pages."""
        query = select(func.count()).select_from(fine_tuning_jobs).where(*_listed(project_id, metadata))
        with self._database.read() as session:
            return int(session.value(query))

    def get(self, project_id: str, job_id: str) -> FineTuningJob:
        """One job. NotFound."""
        with self._database.read() as session:
            row = load_job(session, project_id, job_id)
        return self._with_place(row)

    def cancel(self, caller: Caller, job_id: str) -> FineTuningJob:
        """End a job: nothing that it reports counts any more, and its process ends soon. No effect on one that has ended."""

        def change(session: WriteSession, job: Row[Any]) -> None:
            if not Status(job.status).is_final:
                end_job(session, job, Status.CANCELLED)
                add_message(session, job, "The job was cancelled.")
                self._audit(session, caller, job, "cancelled")

        return self._change(caller, job_id, change)

    def pause(self, caller: Caller, job_id: str) -> FineTuningJob:
        """Stop a job after its present step, or at once if it waits. Conflict in another state. A paused one stays."""

        def change(session: WriteSession, job: Row[Any]) -> None:
            if job.status == Status.PAUSED or job.pause_requested_at is not None:
                return
            if job.status == Status.RUNNING:
                _set(session, job, pause_requested_at=time.time())
                add_message(session, job, "The job pauses after its present step.")
            elif job.status == Status.QUEUED:
                change_status(session, job, Status.PAUSED, released=False)
                request_change(session, job)
                add_message(session, job, "The job is paused.")
            else:
                raise _wrong_state(job, "paused", "queued or runs")
            self._audit(session, caller, job, "paused")

        return self._change(caller, job_id, change)

    def resume(self, caller: Caller, job_id: str) -> FineTuningJob:
        """Queue a paused job again, which continues from its last state. Conflict for one that has ended.

        A pause that has been asked for and not happened yet is taken back.
        """

        def change(session: WriteSession, job: Row[Any]) -> None:
            if job.pause_requested_at is not None:
                _check_budgets(session, job)  # a spent one may have asked for the pause
                _set(session, job, pause_requested_at=None)
            elif job.status == Status.PAUSED:
                self._check_number(session, job.project_id)
                _check_budgets(session, job)
                # The process of the attempt before may not have ended yet.
                change_status(session, job, Status.QUEUED, attempt=job.attempt + 1, released=False)
                request_change(session, job)
            elif job.status not in _ACTIVE:
                raise _wrong_state(job, "resumed", "paused")
            else:
                return
            add_message(session, job, "The job is resumed.")
            self._audit(session, caller, job, "resumed")

        return self._change(caller, job_id, change)

    def _change(self, caller: Caller, job_id: str, change: Callable[[WriteSession, Row[Any]], None]) -> FineTuningJob:
        project_id = caller.key_owner.project_id

        def work(session: WriteSession) -> Row[Any]:
            change(session, load_job(session, project_id, job_id, lock=True))
            return load_job(session, project_id, job_id)

        return self._with_place(self._database.transact(work))

    @staticmethod
    def _audit(session: WriteSession, caller: Caller, job: Row[Any], what: str) -> None:
        place = {"project_id": job.project_id, "organization_id": job.organization_id}
        log.append_entry(session, caller, f"fine_tuning_job.{what}", {"id": job.id}, **place)

    def _with_place(self, row: Row[Any], away: dict[str, str] | None = None) -> FineTuningJob:
        """`away`: clusters that did not answer a moment ago, and why."""
        live: JobStatus | None = None
        if row.status not in (Status.QUEUED, Status.VALIDATING_FILES):
            return FineTuningJob.from_row(row, live)
        if away and row.cluster_id in away:
            live = JobStatus(Phase.QUEUED, row.created_at, reason=away[row.cluster_id])
            return FineTuningJob.from_row(row, live)
        try:
            live = self._places.port(row.cluster_id).status(port_id(row))
        except (Unavailable, NotFound, ClusterError) as error:
            if row.cluster_id is not None:
                live = JobStatus(Phase.QUEUED, row.created_at, reason=error.message)
                if away is not None:
                    away[row.cluster_id] = error.message
        return FineTuningJob.from_row(row, live)

    def _check_model(self, model: Model, new: NewFineTuningJob) -> None:
        size = TrainingSize.of(model, new.training_type, new.worker_count)
        serves = self._serves_whole_models
        problem = problem_of_model(model, size, self._upload_bytes, serves_whole_models=serves)
        if problem := problem or self._registry.blocked_reason(model):
            raise not_trainable(model, problem)

    def _check_graders(self, new: NewFineTuningJob, project_id: str) -> None:
        """Raises InvalidRequest unless the project has the models that graders ask, and they generate text."""
        gate = None if new.promotion is None else new.promotion.grader
        graders = ((GRADER_FIELD, new.read_grader()), (GATE_GRADER, None if gate is None else gate.read()))
        for param, name in ((param, name) for param, grader in graders if grader for name in sorted(grader.models)):
            try:
                model = self._registry.get(name, project_id=project_id)
            except ModelNotFound as error:
                raise InvalidRequest(error.message, param=param, code=error.code) from error
            if model.task not in (None, Task.GENERATE):
                raise InvalidRequest(
                    f"The model '{name}' does not generate text, so it can't grade.", param=param, code="invalid_grader"
                )

    @staticmethod
    def _check_files(session: ReadSession, project_id: str, new: NewFineTuningJob) -> None:
        alive = or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
        for param in ("training_file", "validation_file"):
            file_id = getattr(new, param)
            if file_id is None:
                continue
            row = session.first(select(files).where(files.c.id == file_id, files.c.project_id == project_id, alive))
            if row is None:
                raise NotFound(
                    f"No such file: '{file_id[:64]}'. List those of your project with GET /v1/files.", param=param
                )
            if row.purpose != Purpose.FINE_TUNE:
                raise InvalidRequest(
                    f"The file '{file_id}' has the purpose '{row.purpose}': upload it with '{Purpose.FINE_TUNE}'.",
                    param=param,
                    code="invalid_file_purpose",
                )

    def _check_number(self, session: ReadSession, project_id: str) -> None:
        active = select(func.count()).select_from(fine_tuning_jobs)
        number = session.value(
            active.where(fine_tuning_jobs.c.project_id == project_id, fine_tuning_jobs.c.status.in_(_ACTIVE))
        )
        if number >= self._settings.project_jobs:
            raise Conflict(
                f"Your project has {number} fine-tuning jobs that have not ended, as many as it may have: wait for one, or "
                "cancel one.",
                code="too_many_jobs",
            )


def select_jobs() -> Select[Any]:
    """Rows of jobs with the titles of their project and organization, and the name of their cluster if it is registered."""
    titles = (organizations.c.title.label("organization_title"), projects.c.title.label("project_title"))
    return (
        select(fine_tuning_jobs, *titles, clusters.c.name.label("cluster_name"))
        .join(projects, projects.c.id == fine_tuning_jobs.c.project_id)
        .join(organizations, organizations.c.id == fine_tuning_jobs.c.organization_id)
        .outerjoin(clusters, clusters.c.id == fine_tuning_jobs.c.cluster_id)
    )


def _listed(project_id: str, metadata: Mapping[str, str] | None) -> list[ColumnElement[bool]]:
    """The conditions on the jobs of a list."""
    conditions = [fine_tuning_jobs.c.project_id == project_id]
    if metadata == {}:
        conditions.append(fine_tuning_jobs.c.metadata == "{}")
    c = fine_tuning_metadata.c
    for name, value in (metadata or {}).items():
        having = select(c.job_id).where(c.project_id == project_id, c.name == name, c.value == value)
        conditions.append(fine_tuning_jobs.c.id.in_(having))
    return conditions


def load_job(session: ReadSession, project_id: str, job_id: str, *, lock: bool = False) -> Row[Any]:
    """A row of `select_jobs`. NotFound. `lock`: until the transaction ends."""
    query = select_jobs().where(fine_tuning_jobs.c.id == job_id, fine_tuning_jobs.c.project_id == project_id)
    row = session.first(query.with_for_update(of=fine_tuning_jobs) if lock else query)
    if row is None:
        raise NotFound(
            f"No such fine-tuning job: '{job_id[:64]}'. List those of your project with GET /v1/fine_tuning/jobs.",
            param="fine_tuning_job_id",
        )
    return row


def request_change(session: WriteSession, job: Row[Any]) -> None:
    """Have the reconciler look at a job."""
    add_job_event(session, CHANGE_REQUESTED, job)


def change_status(session: WriteSession, job: Row[Any], status: Status, **values: Any) -> None:
    """Set the status of a job that is locked, and further columns, with the event."""
    _set(session, job, status=status.value, **values)
    error = None
    if status is Status.FAILED:
        error = {name: values.get(f"error_{name}") for name in ("code", "message", "param")}
    add_job_event(session, STATUS_CHANGED, job, status=status.value, error=error)
    request_tracking(session, job)


def end_job(session: WriteSession, job: Row[Any], status: Status, **values: Any) -> None:
    """As `change_status`, to a final one: the files are free, no grade is kept, and the reconciler ends what runs."""
    change_status(session, job, status, finished_at=time.time(), pause_requested_at=None, released=False, **values)
    session.run(delete(fine_tuning_files).where(fine_tuning_files.c.job_id == job.id))
    session.run(delete(fine_tuning_grades).where(fine_tuning_grades.c.job_id == job.id))
    request_change(session, job)


def _set(session: WriteSession, job: Row[Any], **values: Any) -> None:
    session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id).values(**values))


def _check_budgets(session: WriteSession, job: Row[Any]) -> None:
    """Raises InsufficientQuota where budgets do not cover what is left of the training."""
    left = (tokens_of_job(job) or 0) - job.trained_tokens
    if left > 0 and (problem := check_budgets(session, job, left)):
        raise InsufficientQuota(problem)


def _wrong_state(job: Row[Any], what: str, allowed: str) -> Conflict:
    return Conflict(
        f"The job '{job.id}' can't be {what}: its status is {job.status}. It must be one that is {allowed}.",
        code="invalid_job_status",
    )


def _row(session: ReadSession, caller: Caller, job_id: str, new: NewFineTuningJob, model: Model) -> dict[str, Any]:
    owner = caller.key_owner
    return {
        "id": job_id,
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": caller.user_id,
        "key_id": caller.key_id,
        "model": model.name,
        "model_bytes": model.size_bytes,
        "model_id": model.id,
        "model_created_at": model.created_at,
        "training_file": new.training_file,
        "validation_file": new.validation_file,
        "method": new.method,
        "requested": json.dumps(new.hyperparameters.to_json()),
        "seed": secrets.randbelow(2**31) if new.seed is None else new.seed,
        "suffix": new.suffix,
        "worker_count": new.worker_count,
        "training_type": new.training_type,
        "grader": None if new.grader is None else json.dumps(new.grader),
        "metadata": json.dumps(dict(new.metadata)),
        "integrations": json.dumps([asdict(each) for each in new.integrations]) if new.integrations else None,
        "promotion": None if new.promotion is None else json.dumps(new.promotion.to_row()),
        "status": Status.VALIDATING_FILES.value,
        "stage": Stage.CHECK.value,
        "output_model": _output_name(session, owner, model.name, new.suffix, job_id),
        "created_at": int(time.time()),
        "released": False,
        **dict.fromkeys(("attempt", "failures", "checked_bytes", "checked_lines", "step", "trained_tokens"), 0),
    }


def _output_name(session: ReadSession, owner: KeyOwner, model: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<organization>:<suffix>:<id>`, as OpenAI names results."""
    title = session.value(select(organizations.c.title).where(organizations.c.id == owner.organization_id))
    organization = re.sub(r"[^a-z0-9]+", "-", str(title).lower()).strip("-")[:32] or "org"
    parts: Sequence[str] = ("ft", model, organization, *([suffix] if suffix else []), job_id[-8:])
    # Names of checkpoints are longer, and are names of models too.
    name = ":".join(parts)
    if len(name) > _MAX_MODEL_NAME - MAX_ADDED:
        raise InvalidRequest(
            "The name of the fine-tuned model would be too long: choose a shorter suffix.", param="suffix"
        )
    return name
