"""Records that the process of a job reports, and what each of them changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, select, update

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.charges import charge_tokens, check_budgets, cost_of
from llmariner.fine_tuning.checkpoint_names import checkpoint_name
from llmariner.fine_tuning.estimates import expected_speed
from llmariner.fine_tuning.events import PROGRESSED, add_job_event, add_message, add_metrics
from llmariner.fine_tuning.gate_estimate import GateEstimate, estimate_gate
from llmariner.fine_tuning.hyperparameters import Hyperparameters, Method, RequestedHyperparameters, resolve
from llmariner.fine_tuning.job import Stage, Status, TrainingType
from llmariner.fine_tuning.jobs import change_status, end_job, request_change, select_jobs
from llmariner.fine_tuning.promotion import gate_grader
from llmariner.fine_tuning.records import count_of, metrics_of, number_of, text_of
from llmariner.fine_tuning.tables import (
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_grades,
    fine_tuning_jobs,
)
from llmariner.identifiers import new_id
from llmariner.platform.database import WriteSession

__all__ = ["apply_record", "charge_report", "fail_file", "stops_early", "tell_progress"]

_MIN_EXAMPLES = 10
"""OpenAI's."""
_NEW_SPEED_SHARE = 0.2
"""Of a step in the speed that estimates use: steps have different lengths."""
_MIN_SPEED, _MAX_SPEED = 1e-3, 1e9
"""Tokens per second. Estimates divide by it, those of other projects' jobs too, and a process may say what it likes."""
_PROGRESS_SECONDS = 10.0
"""Between two events of steps: the list of events has every step."""
_GRADED_AGAIN = 3
_MAX_GRADED = 1000
"""Examples of a validation file to which a gate grades answers: each takes up to some seconds of a processor, twice."""
_WITH_TOKENS = ("step", "checkpoint", "finished")
_ENDING = ("finished", "failed", "paused")


def apply_record(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    """Change the rows of a job, which is locked. Raises InvalidRequest for a record that its stage does not have."""
    kind = str(record.get("type"))
    apply = (_OF_CHECK if job.stage == Stage.CHECK else _OF_TRAINING).get(kind)
    if apply is None:
        raise InvalidRequest(f"No such record in this stage: '{kind[:32]}'.", param="records.type")
    apply(session, job, record)


def charge_report(session: WriteSession, job: Row[Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Charge the tokens that the records say were trained. A job that spends the rest of a budget is to pause.

    `job`: locked, as it was before the records were applied.
    """
    counts = [_trained_tokens(job, record) for record in records if record.get("type") in _WITH_TOKENS]
    if job.stage != Stage.TRAIN or not counts:
        return
    spent = charge_tokens(session, job, max(counts))
    ends = any(record.get("type") in _ENDING for record in records)
    if spent is not None and not ends and job.pause_requested_at is None:
        _set(session, job, pause_requested_at=session.now())
        message = f"The budget '{spent}' is spent: the job pauses. Resume it when the budget allows it."
        add_message(session, job, message, "warn")


def _trained_tokens(job: Row[Any], record: Mapping[str, Any]) -> int:
    """How many were trained by then; those of a checkpoint follow from its epochs, since it is a model that answers."""
    if record.get("type") != "checkpoint":
        return count_of(record, "trained_tokens")
    epochs = _epochs_at(job, count_of(record, "step"))
    if job.method != Method.REINFORCEMENT:
        return int(job.tokens) * epochs
    # An answer has a token at least; how many it has is what the process says in the records of steps.
    numbers = json.loads(job.hyperparameters)
    longer = int(numbers["group_size"]) * int(job.examples) * (int(numbers["max_completion_tokens"]) - 1)
    return (int(job.tokens) - longer) * epochs


def tell_progress(session: WriteSession, job: Row[Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Tell subscribers of the last step of some records, unless they were notified of one a moment ago."""
    steps = [record for record in records if record.get("type") == "step"]
    now = session.now()
    if not steps or now - (job.progress_event_at or 0.0) < _PROGRESS_SECONDS:
        return
    last = steps[-1]
    fields = {"step": count_of(last, "step"), "total_steps": job.total_steps, "metrics": metrics_of(last)}
    add_job_event(session, PROGRESSED, job, **fields, trained_tokens=count_of(last, "trained_tokens"))
    _set(session, job, progress_event_at=now)


def _checkpoint_name(job: Row[Any], step: int) -> str:
    """The name of a checkpoint; that of the last step is the result, unless the best one is."""
    is_result = step == job.total_steps and not stops_early(job)
    return str(job.output_model) if is_result else checkpoint_name(job.output_model, step)


def _epochs_at(job: Row[Any], step: int) -> int:
    """The number of epochs that are complete after a step with which one ends. Raises InvalidRequest for another step."""
    epochs = int(json.loads(job.hyperparameters)["n_epochs"])
    found, rest = divmod(step * epochs, int(job.total_steps))
    if rest or not 0 < found <= epochs:
        raise InvalidRequest("No epoch of the job ends with that step.", param="records.step")
    return found


def _step_of(job: Row[Any], record: Mapping[str, Any]) -> int:
    """A step of the job, 0 before the first. Raises InvalidRequest."""
    return count_of(record, "step", int(job.total_steps))


def stops_early(job: Row[Any]) -> bool:
    """Whether the job may end before its last epoch, and its result is the best checkpoint."""
    return bool(json.loads(job.hyperparameters).get("early_stopping_patience"))


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
    if not job.model_bytes and "weight_bytes" in record:  # nobody knew the size of the model
        _set(session, job, model_bytes=count_of(record, "weight_bytes", 2**50))
        job = session.rows(select_jobs().where(fine_tuning_jobs.c.id == job.id))[0]
    validation = record.get("validation_file")
    held_out = count_of(validation, "examples") if isinstance(validation, Mapping) else 0
    held_out_tokens = count_of(validation, "tokens") if isinstance(validation, Mapping) else 0
    if gate_grader(job) is not None and not 0 < held_out <= _MAX_GRADED:
        message = f"The file has {held_out} examples: a gate grades answers to 1 to {_MAX_GRADED}."
        fail_file(session, job, "validation_file", message)
        return
    _queue_training(session, job, examples, tokens, (held_out, held_out_tokens))


def _queue_training(
    session: WriteSession, job: Row[Any], examples: int, tokens: int, held_out: tuple[int, int]
) -> None:
    """Queue a job whose files are good, with its estimate, unless a budget does not cover its trained tokens.

    `held_out`: examples and tokens of the validation file.
    """
    requested = RequestedHyperparameters.from_json(json.loads(job.requested))
    trains_all = job.training_type == TrainingType.FULL
    method, weight_bytes = Method(job.method), job.model_bytes
    numbers = resolve(requested, method, examples=examples, weight_bytes=weight_bytes, trains_all=trains_all)
    if numbers.group_size is not None and numbers.max_completion_tokens is not None:
        tokens = numbers.group_size * (tokens + examples * numbers.max_completion_tokens)
    total_steps = -(-examples // numbers.batch_size) * numbers.n_epochs
    total_tokens, speed = tokens * numbers.n_epochs, expected_speed(session, job)
    if problem := check_budgets(session, job, total_tokens):
        end_job(session, job, Status.FAILED, error_code="insufficient_quota", error_message=problem)
        add_message(session, job, problem, "error")
        return
    gate = estimate_gate(session, job, numbers, *held_out, speed)
    change_status(
        session,
        job,
        Status.QUEUED,
        stage=Stage.TRAIN.value,
        attempt=job.attempt + 1,
        hyperparameters=json.dumps(numbers.to_json()),
        examples=examples,
        tokens=tokens,
        total_steps=total_steps,
        tokens_per_second=speed,
        estimate_seconds=total_tokens / speed + (gate.seconds if gate else 0),
        estimate_cost=cost_of(session, job, total_tokens) + (gate.cost if gate else 0),
        estimate_gate=None if gate is None else json.dumps(gate.to_json()),
        grades_left=_grades(numbers, examples, held_out[0], total_steps, gate),
    )
    request_change(session, job)
    most = "" if numbers.group_size is None else "up to "
    add_message(session, job, "Files validated, moving job to queued state")
    add_message(
        session,
        job,
        f"{examples} examples, {most}{total_tokens} tokens in {numbers.n_epochs} epochs, {total_steps} steps",
    )


def _grades(
    numbers: Hyperparameters, examples: int, held_out: int, total_steps: int, gate: GateEstimate | None
) -> int | None:
    """How many answers of a job may be graded: each several times, since answers may differ after an interruption."""
    if numbers.group_size is None and gate is None:
        return None
    grades = 0
    if numbers.group_size is not None and numbers.eval_samples is not None:
        evaluations = numbers.n_epochs + total_steps // (numbers.eval_interval or total_steps)
        grades = numbers.n_epochs * examples * numbers.group_size + evaluations * held_out * numbers.eval_samples
    if gate is not None:
        grades += gate.answers
    return _GRADED_AGAIN * grades


def _on_invalid(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    param = text_of(record, "file", 32)
    if param not in ("training_file", "validation_file"):
        raise InvalidRequest("No such file.", param="records.file")
    fail_file(session, job, param, f"Line {count_of(record, 'line')}: {text_of(record, 'message', 1000)}.")


def _on_training(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step = _step_of(job, record)
    if job.status == Status.QUEUED:
        started = {} if job.started_at is not None else {"started_at": session.now()}
        change_status(session, job, Status.RUNNING, **started)
    elif job.step <= step:
        return
    message = f"Fine-tuning continues after step {step}" if step or job.step else "Fine-tuning job started"
    if message != _last_message(session, job):  # it may be reported again
        add_message(session, job, message)


def _last_message(session: WriteSession, job: Row[Any]) -> str | None:
    c = fine_tuning_events.c
    query = select(c.message).where(c.job_id == job.id, c.step.is_(None)).order_by(c.id.desc()).limit(1)
    found: str | None = session.value(query)
    return found


def _on_step(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step, total = _step_of(job, record), int(job.total_steps)
    metrics = {"step": step, "total_steps": total, **metrics_of(record)}
    if "train_loss" not in metrics:
        raise InvalidRequest("The loss of a step is missing.", param="records.train_loss")
    add_metrics(session, job, step, metrics, total)
    speed = min(_MAX_SPEED, max(_MIN_SPEED, number_of(record, "tokens_per_second")))
    if job.step and job.tokens_per_second:  # before the first step it is the estimate
        speed = _NEW_SPEED_SHARE * speed + (1 - _NEW_SPEED_SHARE) * job.tokens_per_second
    if job.status == Status.QUEUED:  # it was noted as interrupted after its successor had begun
        change_status(session, job, Status.RUNNING)
    _set(session, job, step=step, tokens_per_second=speed)


def _on_checkpoint(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step = count_of(record, "step")
    _epochs_at(job, step)  # so a job has as many checkpoints as epochs
    row = {
        "id": new_id("ftckpt"),
        "job_id": job.id,
        "organization_id": job.organization_id,
        "project_id": job.project_id,
        "created_at": int(session.now()),
        "step": step,
        "file_id": text_of(record, "file_id", 64),
        "model": _checkpoint_name(job, step),
        "metrics": json.dumps(metrics_of(record)),
    }
    if session.insert_if_absent(fine_tuning_checkpoints, [row]):
        add_message(session, job, f"Checkpoint created at step {step}: {row['model']}")


def _on_state(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    step = _step_of(job, record)
    graded = count_of(record, "graded", _MAX_GRADED) if "graded" in record else 0
    # An attempt that came further than the one before is none of a row of failures.
    further = (step, graded) > (job.state_step or 0, job.state_graded or 0)
    failures = {"failures": 0} if further else {}
    state = {"state_file": text_of(record, "file_id", 64), "state_step": step, "state_graded": graded}
    _set(session, job, **state, **failures)
    c = fine_tuning_grades.c
    session.run(delete(fine_tuning_grades).where(c.job_id == job.id, c.step < step))  # no attempt answers them again


def _on_paused(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    change_status(session, job, Status.PAUSED, pause_requested_at=None, released=False)
    request_change(session, job)
    reason = f" {text_of(record, 'reason', 1000)}" if "reason" in record else ""
    add_message(
        session, job, f"The job is paused after step {_step_of(job, record)}.{reason}", "warn" if reason else "info"
    )


def _on_finished(session: WriteSession, job: Row[Any], record: Mapping[str, Any]) -> None:
    if job.result_file is not None:  # the answer to an earlier report was lost
        return
    base = {"base_valid_loss": number_of(record, "base_valid_loss")} if "base_valid_loss" in record else {}
    _set(session, job, result_file=text_of(record, "file_id", 64), pause_requested_at=None, **base)
    request_change(session, job)
    if "gate_problem" in record:
        message = f"Answers to the validation file were not graded. {text_of(record, 'gate_problem', 1000)}"
        add_message(session, job, message, "warn")
    if stops_early(job):
        best, step = count_of(record, "best_step"), _step_of(job, record)
        early = "" if step == job.total_steps else f"Training stopped early after step {step}. "
        add_message(session, job, f"{early}The checkpoint with the lowest validation loss is the result: step {best}")


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
