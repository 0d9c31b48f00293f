"""Records that the process of a job reports, and what each of them changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.events import add_message, add_metrics
from llmariner.fine_tuning.hyperparameters import Method, RequestedHyperparameters, resolve
from llmariner.fine_tuning.job import Stage, Status
from llmariner.fine_tuning.jobs import change_status, end_job, request_change
from llmariner.fine_tuning.records import count_of, metrics_of, number_of, text_of
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_jobs
from llmariner.identifiers import new_id
from llmariner.platform.database import WriteSession

__all__ = ["apply_record", "checkpoint_name", "fail_file"]

_MIN_EXAMPLES = 10
"""OpenAI's."""


def apply_record(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    """Change the rows of a job, which is locked. Raises InvalidRequest for a record that its stage does not have."""
    kind = str(record.get("type"))
    apply = (_OF_CHECK if job.stage == Stage.CHECK else _OF_TRAINING).get(kind)
    if apply is None:
        raise InvalidRequest(f"No such record in this stage: '{kind[:32]}'.", param="records.type")
    apply(session, job, record)


def checkpoint_name(job: Row[Any], step: int) -> str:
    """The name of a checkpoint; that of the last step is the result."""
    return str(job.output_model) if step == job.total_steps else f"{job.output_model}:ckpt-step-{step}"


def fail_file(session: WriteSession, job: Row[Any], param: str, message: str) -> None:
    """End a job that is locked because of a file, which the field `param` names."""
    error = {"error_code": f"invalid_{param}", "error_param": param, "error_message": message}
    end_job(session, job, Status.FAILED, **error)
    add_message(session, job, message, "error")


def _on_checked(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    found = record.get("training_file")
    if not isinstance(found, Mapping):
        raise InvalidRequest("The counts of the training file are missing.", param="records.training_file")
    examples, tokens = count_of(found, "examples"), count_of(found, "tokens")
    if examples < _MIN_EXAMPLES:
        fail_file(
            session, job, "training_file", f"The file has {examples} examples: it needs {_MIN_EXAMPLES} at least."
        )
        return
    requested = RequestedHyperparameters.from_json(json.loads(job.requested))
    numbers = resolve(requested, Method(job.method), examples=examples, weight_bytes=job.model_bytes)
    total_steps = -(-examples // numbers.batch_size) * numbers.n_epochs
    change_status(
        session,
        job,
        Status.QUEUED,
        stage=Stage.TRAIN.value,
        attempt=job.attempt + 1,
        hyperparameters=json.dumps(asdict(numbers)),
        examples=examples,
        tokens=tokens,
        total_steps=total_steps,
        tokens_per_second=_known_speed(session, job),
    )
    request_change(session, job)
    add_message(session, job, "Files validated, moving job to queued state")
    add_message(
        session,
        job,
        f"{examples} examples, {tokens * numbers.n_epochs} tokens in {numbers.n_epochs} epochs, {total_steps} steps",
    )


def _known_speed(session: WriteSession, job: Row[Any]) -> float | None:
    """Tokens per second of the latest job with this model and method; None for the first."""
    c = fine_tuning_jobs.c
    same = (c.model_id == job.model_id) & (c.method == job.method) & c.tokens_per_second.is_not(None) & (c.step > 0)
    speed: float | None = session.value(select(c.tokens_per_second).where(same).order_by(c.id.desc()).limit(1))
    return speed


def _on_invalid(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    param = text_of(record, "file", 32)
    if param not in ("training_file", "validation_file"):
        raise InvalidRequest("No such file.", param="records.file")
    fail_file(session, job, param, f"Line {count_of(record, 'line')}: {text_of(record, 'message', 1000)}.")


def _on_training(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    if job.status != Status.QUEUED:
        return
    started = {} if job.started_at is not None else {"started_at": session.now()}
    change_status(session, job, Status.RUNNING, **started)
    step = count_of(record, "step")
    add_message(session, job, f"Fine-tuning continues after step {step}" if step else "Fine-tuning job started")


def _on_step(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step = count_of(record, "step")
    total = int(job.total_steps or step)
    metrics = {"step": step, "total_steps": total, **metrics_of(record)}
    if "train_loss" not in metrics:
        raise InvalidRequest("The loss of a step is missing.", param="records.train_loss")
    add_metrics(session, job, step, metrics, total)
    values = {"step": step, "trained_tokens": count_of(record, "trained_tokens")}
    _set(session, job, **values, tokens_per_second=number_of(record, "tokens_per_second"))


def _on_checkpoint(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step = count_of(record, "step")
    row = {
        "id": new_id("ftckpt"),
        "job_id": job.id,
        "organization_id": job.organization_id,
        "project_id": job.project_id,
        "created_at": int(session.now()),
        "step": step,
        "file_id": text_of(record, "file_id", 64),
        "model": checkpoint_name(job, step),
        "metrics": json.dumps(metrics_of(record)),
    }
    if session.insert_if_absent(fine_tuning_checkpoints, [row]):
        add_message(session, job, f"Checkpoint created at step {step}: {row['model']}")


def _on_state(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    _set(session, job, state_file=text_of(record, "file_id", 64), state_step=count_of(record, "step"))


def _on_paused(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    change_status(session, job, Status.PAUSED, pause_requested_at=None, released=False)
    request_change(session, job)
    add_message(session, job, f"The job is paused after step {count_of(record, 'step')}.")


def _on_finished(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    tokens = count_of(record, "trained_tokens")
    _set(session, job, result_file=text_of(record, "file_id", 64), trained_tokens=tokens, pause_requested_at=None)
    request_change(session, job)


def _on_failed(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    message = text_of(record, "message", 1000)
    end_job(session, job, Status.FAILED, error_code="training_failed", error_message=message)
    add_message(session, job, message, "error")


_OF_CHECK: dict[str, Callable[[WriteSession, Row[Any], Mapping[str, Any]], None]] = {
    "checked": _on_checked,
    "failed": _on_failed,
    "invalid": _on_invalid,
}
_OF_TRAINING: dict[str, Callable[[WriteSession, Row[Any], Mapping[str, Any]], None]] = {
    "failed": _on_failed,
    "invalid": _on_invalid,
    "training": _on_training,
    "step": _on_step,
    "checkpoint": _on_checkpoint,
    "state": _on_state,
    "paused": _on_paused,
    "finished": _on_finished,
}


def _set(session: WriteSession, job: Row[Any], **values: Any) -> None:
    session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id).values(**values))
