"""The JSON of fine-tuning jobs: OpenAI's fields, upstream's, and those that say more."""

from __future__ import annotations

import time
from typing import Any

from llmariner.fine_tuning.gate_estimate import GateEstimate
from llmariner.fine_tuning.history import Checkpoint, JobEvent
from llmariner.fine_tuning.hyperparameters import Method
from llmariner.fine_tuning.job import FineTuningJob, Status
from llmariner.usage.prices import dollars

__all__ = ["checkpoint_object", "event_object", "job_object"]


_SHARED = ("n_epochs", "batch_size", "learning_rate_multiplier", "early_stopping_patience")
"""What OpenAI's older field `hyperparameters` has, too."""
_OF_METHOD = {
    Method.DPO: ("beta",),
    Method.REINFORCEMENT: ("compute_multiplier", "eval_interval", "eval_samples", "beta", "max_completion_tokens"),
}


def job_object(job: FineTuningJob) -> dict[str, Any]:
    """The JSON object of a job. Times are whole Unix seconds."""
    error = None
    if job.error_code is not None:
        error = {"code": job.error_code, "message": job.error_message, "param": job.error_param}
    hyperparameters = _hyperparameters(job)
    shared = {name: value for name, value in hyperparameters.items() if name in _SHARED}
    settings = {**({} if job.grader is None else {"grader": job.grader}), "hyperparameters": hyperparameters}
    waits = job.status in (Status.QUEUED, Status.VALIDATING_FILES)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "error": error,
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "hyperparameters": shared,
        "model": job.model,
        "organization_id": job.organization_id,
        "result_files": [] if job.result_file is None else [job.result_file],
        "seed": job.seed,
        "status": job.status.value,
        "trained_tokens": job.trained_tokens if job.status.is_final else None,
        "cost_usd": dollars(job.cost),
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "estimated_finish": _estimated_finish(job),
        "integrations": [each.to_json() for each in job.integrations],
        "metadata": dict(job.metadata),
        "method": {"type": job.method.value, job.method.value: settings},
        "training_type": {"type": job.training_type.value},
        "suffix": job.suffix,
        "project_id": job.project_id,
        "project_title": job.project_title,
        "organization_title": job.organization_title,
        "resources": {"gpu_count": 0, "worker_count": job.worker_count},
        "kubernetes_namespace": "",
        "cluster_id": job.cluster_id or "",
        "cluster_name": job.cluster_name or "",
        "queue": {"place": job.place, "reason": job.reason} if waits else None,
        "estimate": {
            "tokens": job.estimated_tokens,
            "seconds": job.estimate_seconds,
            "cost_usd": None if job.estimate_cost is None else dollars(job.estimate_cost),
            "seconds_left": job.seconds_left,
            "gate": None if job.estimate_gate is None else _gate(job.estimate_gate),
        },
        "progress": {"step": job.step, "total_steps": job.total_steps, "trained_tokens": job.trained_tokens},
        "promotion": None
        if job.promotion is None
        else {
            **job.promotion.to_json(),
            "result": None if job.promotion_result is None else dict(job.promotion_result),
        },
        "pause_requested": job.pause_requested_at is not None,
    }


def event_object(event: JobEvent) -> dict[str, Any]:
    """The JSON object of an event."""
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": "message" if event.step is None else "metrics",
        "data": event.data,
    }


def checkpoint_object(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON object of a checkpoint."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": checkpoint.job_id,
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
    }


def _gate(estimate: GateEstimate) -> dict[str, Any]:
    return {
        "answers": estimate.answers,
        "tokens": estimate.tokens,
        "seconds": estimate.seconds,
        "cost_usd": dollars(estimate.cost),
    }


def _hyperparameters(job: FineTuningJob) -> dict[str, Any]:
    """The numbers, as soon as they are known; before, what was asked for."""
    source = job.hyperparameters or job.requested
    names = ("n_epochs", "batch_size", "learning_rate_multiplier", *_OF_METHOD.get(job.method, ()))
    patience = (
        {} if source.early_stopping_patience is None else {"early_stopping_patience": source.early_stopping_patience}
    )
    # A number that is not there is one that stays automatic: the interval is then an epoch.
    return {**{name: "auto" if (value := getattr(source, name)) is None else value for name in names}, **patience}


def _estimated_finish(job: FineTuningJob) -> int | None:
    seconds = job.seconds_left
    return None if seconds is None or job.status is Status.PAUSED else int(time.time() + seconds)
