"""The platform as the process of a job sees it: plan, reports, uploads. `training_program.platform` is the other side."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Row, delete, select, update

from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from llmariner.files.files import Files
from llmariner.files.links import FileLinks
from llmariner.files.upload_links import UploadLinks
from llmariner.fine_tuning.base_models import base_model
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters, explored
from llmariner.fine_tuning.integrations import request_tracking
from llmariner.fine_tuning.job import Stage, TrainingType
from llmariner.fine_tuning.promotion import Promotion, gate_grader
from llmariner.fine_tuning.records import MAX_RECORDS, count_of, text_of
from llmariner.fine_tuning.references import FileDeleted, keep_file
from llmariner.fine_tuning.reports import apply_record, charge_report, stops_early, tell_progress
from llmariner.fine_tuning.results import Results
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_jobs, fine_tuning_permissions
from llmariner.fine_tuning.worker_tokens import Worker, load_attempt, load_job_of
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.jobs import WEIGHTS_FOLDER

__all__ = ["WorkerAddresses", "Workers"]

_LINK_SECONDS = 3600
_BATCH = 100
_NUMBERS = (
    *("n_epochs", "batch_size", "learning_rate", "beta", "early_stopping_patience"),
    *("group_size", "eval_interval", "eval_samples"),
)
"""Hyperparameters that the process of a training gets."""
_KEPT_CHECKPOINTS = 3
"""As OpenAI has it: those of the last three epochs."""
_KEPT_MODELS = 2
"""Of all weights, which take as much room as the base model."""
_SECONDS_BETWEEN_LARGE_STATES = 300.0
"""Of all weights: a state is six times as large as they are."""
_CONTEXT_TOKENS = 4096
"""The context of engines on one machine; a longer example would be one that is never asked."""


@dataclass(frozen=True)
class WorkerAddresses:
    """Base URLs, as the process of a job reaches them: of the routes for workers, and of those of files."""

    workers: str
    files: str


class Workers:
    """The jobs' processes of one installation. All methods block, and raise Conflict once a process's attempt has ended.

    `addresses`: for jobs of a worker cluster, or at home.
    """

    def __init__(
        self,
        database: Database,
        registry: ModelRegistry,
        files: Files,
        links: FileLinks,
        upload_links: UploadLinks,
        addresses: Callable[[str | None], WorkerAddresses],
    ) -> None:
        self._database = database
        self._registry = registry
        self._results = Results(database, files)
        self._links = links
        self._upload_links = upload_links
        self._addresses = addresses

    def plan(self, worker: Worker) -> dict[str, Any]:
        """What the process is to do, as JSON of `training_program.plan.Plan`. From now on no other process is heard."""
        job = self._database.transact(partial(_take_over, worker=worker))
        model = base_model(self._registry, job)
        links = {
            name: None if file_id is None else self._link(worker, job, file_id)
            for name, file_id in _files_of(job).items()
        }
        plan = {
            "stage": job.stage,
            "model_folder": model.folder if model.folder.startswith("/") else WEIGHTS_FOLDER,
            "method": job.method,
            "context_tokens": _CONTEXT_TOKENS,
            "seed": job.seed,
            **links,
        }
        if job.grader is not None:
            _, tokens = explored(RequestedHyperparameters.from_json(json.loads(job.requested)))
            plan |= {"grader": json.loads(job.grader), "max_completion_tokens": tokens}
        if (gate := gate_grader(job)) is not None:
            plan |= {"gate_grader": dict(gate.grader), "gate_completion_tokens": gate.max_completion_tokens}
        if job.stage == Stage.TRAIN:
            numbers = json.loads(job.hyperparameters)
            compares = job.promotion is not None and Promotion.from_json(json.loads(job.promotion)).better_than
            plan["measures_base"] = compares == "base"
            if job.training_type not in (None, TrainingType.LORA):
                plan["training_type"] = job.training_type
            if job.training_type == TrainingType.FULL:
                plan["checkpoint_seconds"] = _SECONDS_BETWEEN_LARGE_STATES
            plan |= {name: numbers[name] for name in _NUMBERS if name in numbers}
        return plan

    def link(self, worker: Worker, name: str) -> str:
        """A new link to a file of the plan, whose own has expired: a process may fetch it late, or for hours.

        Raises NotFound for a file that the plan does not have.
        """
        with self._database.read() as session:
            job = load_job_of(session, worker)
        if (file_id := _files_of(job).get(name)) is None:
            raise NotFound(f"The plan of the job has no such file: '{name[:64]}'.", param="name")
        return self._link(worker, job, file_id)

    def _link(self, worker: Worker, job: Row[Any], file_id: str) -> str:
        path = self._links.create(worker.maker, file_id, min(_LINK_SECONDS, self._links.longest_seconds)).path
        return self._addresses(job.cluster_id).files + path

    def upload_link(self, worker: Worker, kind: str, size_bytes: int, sha256: str) -> str:
        """A URL by which the process may upload one file, of this content."""
        new = self._results.new_file(worker.job_id, kind)
        with self._database.read() as session:
            address = self._addresses(load_job_of(session, worker).cluster_id).files
        terms = self._upload_links.terms(new, size_bytes=size_bytes, sha256=sha256)
        seconds = min(_LINK_SECONDS, self._upload_links.longest_seconds)
        return address + self._upload_links.create(worker.maker, terms, seconds).path

    def report(self, worker: Worker, records: Sequence[Mapping[str, Any]]) -> str:
        """Record what happened, all of it or nothing; returns what the process is to do: `continue` or `pause`.

        Idempotent.
        """
        if len(records) > MAX_RECORDS:
            raise InvalidRequest(f"A report has {MAX_RECORDS} records at most.", param="records")
        kinds = {str(record.get("type")) for record in records}
        if "checkpoint" in kinds:
            with self._database.read() as session:
                base_model(self._registry, load_job_of(session, worker))
        for record in records:
            if record.get("type") == "finished" and record.get("best_step") is not None:
                self._register_best(worker, count_of(record, "best_step"))
        self._database.transact(partial(self._apply, worker=worker, records=records))
        # Last, since a report that is refused makes no model.
        for record in records:
            if record.get("type") == "checkpoint":
                self._register(worker, count_of(record, "step"))
        if "state" in kinds:
            self._delete_old_states(worker)
        if "checkpoint" in kinds:
            self._delete_old_checkpoints(worker)
        with self._database.read() as session:
            job = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == worker.job_id))
        return "pause" if job is not None and job.pause_requested_at is not None else "continue"

    def _apply(self, session: WriteSession, worker: Worker, records: Sequence[Mapping[str, Any]]) -> None:
        before = load_job_of(session, worker, lock=True)
        for record in records:
            # Each record finds the job as the one before left it.
            job = load_job_of(session, worker, lock=True)
            if "file_id" in record:
                self._results.check_own(session, job, text_of(record, "file_id", 64))
            apply_record(session, job, record)
        tell_progress(session, before, records)
        request_tracking(session, before)
        charge_report(session, before, records)  # last, since it locks budgets, for which gateways wait

    def _register(self, worker: Worker, step: int) -> None:
        """Make a model of a checkpoint's file; the last one is the result. Idempotent."""
        with self._database.read() as session:
            job, row = load_job_of(session, worker), _checkpoint(session, worker.job_id, step)
        if row is not None:
            self._create_model(worker, job, row.model, row.file_id)

    def _register_best(self, worker: Worker, step: int) -> None:
        """Make the result of the file of the best checkpoint. Idempotent."""
        with self._database.read() as session:
            job, row = load_job_of(session, worker), _checkpoint(session, worker.job_id, step)
        if row is None or not stops_early(job):
            raise InvalidRequest("The job has no such checkpoint.", param="records.best_step")
        self._create_model(worker, job, str(job.output_model), row.file_id)

    def _create_model(self, worker: Worker, job: Row[Any], name: str, file_id: str) -> None:
        new = NewModel(
            id=name,
            source_repository=SourceRepository.FINE_TUNING,
            model_file_location=file_id,
            base_model_id=None if job.training_type == TrainingType.FULL else base_model(self._registry, job).name,
            project_id=job.project_id,
        )
        keep = partial(keep_file, file_id=file_id)
        # A resumed job may make the same model again: the same step of the same seed. The file is gone if the job was
        # canceled meanwhile, after which it may be deleted.
        with contextlib.suppress(Conflict, FileDeleted):
            self._registry.create(new, maker=worker.maker, fine_tuning_job_id=job.id, check=keep)

    def _delete_old_states(self, worker: Worker) -> None:
        """Delete the states before the last one."""
        with self._database.read() as session:
            job = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == worker.job_id))
        if job is not None:
            self._results.delete_states(job, before=job.state_file)

    def _delete_old_checkpoints(self, worker: Worker) -> None:
        """Delete the models of checkpoints but the last ones and the best, unless they are active or other projects' too."""
        c = fine_tuning_checkpoints.c
        old = select(fine_tuning_checkpoints).where(c.job_id == worker.job_id).order_by(c.step.desc())
        with self._database.read() as session:
            job = load_job_of(session, worker)
            rows = session.rows(old.limit(_BATCH))
            shared = _shared_models(session, job, [row.model for row in rows])
        losses = [(_validation_loss(row), row.step) for row in rows]
        best = min(((loss, step) for loss, step in losses if loss is not None), default=(0.0, -1))[1]
        for row in rows[_KEPT_MODELS if job.training_type == TrainingType.FULL else _KEPT_CHECKPOINTS :]:
            if row.step == best or row.model in shared:
                continue
            try:
                self._registry.delete(row.model, project_id=row.project_id)
            except ModelNotFound:
                pass
            except InvalidRequest:
                continue
            # First, since a checkpoint keeps its file. A file that is left by a crash goes with the job's end.
            with self._database.write() as session:
                session.run(delete(fine_tuning_checkpoints).where(c.id == row.id))
            self._results.delete(job, row.file_id)


def _files_of(job: Row[Any]) -> dict[str, str | None]:
    """The files that the process of a job reads, by their fields of the plan."""
    files = {"training_file": job.training_file, "validation_file": job.validation_file}
    return files | ({"checkpoint": job.state_file} if job.stage == Stage.TRAIN else {})


def _take_over(session: WriteSession, worker: Worker) -> Row[Any]:
    """Note that a process speaks for its attempt. Returns the job, of which it may be in the middle."""
    job = load_attempt(session, worker.job_id, worker.attempt, lock=True)
    if worker.process and worker.process != job.process:
        session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id).values(process=worker.process))
    return job


def _checkpoint(session: ReadSession, job_id: str, step: int) -> Row[Any] | None:
    c = fine_tuning_checkpoints.c
    return session.first(select(fine_tuning_checkpoints).where(c.job_id == job_id, c.step == step))


def _shared_models(session: ReadSession, job: Row[Any], models: Sequence[str]) -> set[str]:
    """Those of a job's models whose files other projects use."""
    c = fine_tuning_permissions.c
    used = select(c.model).where(c.organization_id == job.organization_id, c.model.in_(models))
    return {row.model for row in session.rows(used)}


def _validation_loss(checkpoint: Row[Any]) -> float | None:
    """The loss on the whole validation file; None without one."""
    loss: float | None = json.loads(checkpoint.metrics).get("full_valid_loss")
    return loss
