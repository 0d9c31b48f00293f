"""Cases of `llma fine-tuning`, as those of `storage_cases`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["ROWS"]

JOB: dict[str, Any] = {
    "id": "ftjob-1",
    "object": "fine_tuning.job",
    "created_at": 1_760_000_000,
    "finished_at": None,
    "status": "queued",
    "queue": {"place": 2, "reason": "Jobs run before it."},
    "error": None,
    "model": "smol",
    "fine_tuned_model": None,
    "method": {"type": "supervised"},
    "hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0},
    "seed": 7,
    "training_file": "file-1",
    "validation_file": None,
    "result_files": [],
    "trained_tokens": None,
    "estimate": {"tokens": 3000, "seconds": 75.0, "cost_usd": 0.009, "seconds_left": 61.4},
    "cost_usd": 0.0012,
    "progress": {"step": 12, "total_steps": 90, "trained_tokens": 400},
    "pause_requested": False,
}
REJECTED = {"alias": "bot", "gate": None, "result": {"status": "rejected", "reason": "its loss is high"}}
DONE = {
    **JOB,
    "promotion": REJECTED,
    "status": "succeeded",
    "queue": None,
    "fine_tuned_model": "ft:smol:org:x",
    "trained_tokens": 3000,
}
FAILED = {
    **JOB,
    "status": "failed",
    "queue": None,
    "error": {"code": "invalid_training_file", "message": "Line 4: it is a preference.", "param": "training_file"},
}
EVENT = {
    "id": "ftevent-1",
    "object": "fine_tuning.job.event",
    "created_at": 1_760_000_000,
    "level": "info",
    "message": "Step 1/90: training loss=2.0000",
    "type": "metrics",
    "data": {"step": 1, "train_loss": 2.0, "valid_loss": 2.5},
}
REWARDED = {
    **EVENT,
    "message": "Step 2/90: training loss=0.0100, reward=0.7500",
    "data": {"step": 2, "train_loss": 0.01, "train_reward_mean": 0.75, "kl_divergence": 0.2},
}
CHECKPOINT = {
    "id": "ftckpt_1",
    "object": "fine_tuning.job.checkpoint",
    "created_at": 1_760_000_000,
    "fine_tuned_model_checkpoint": "ft:smol:org:x:ckpt-step-30",
    "fine_tuning_job_id": "ftjob-1",
    "step_number": 30,
    "metrics": {"step": 30, "full_valid_loss": 1.25},
}
CREDENTIAL = {
    "id": "ftcred_1",
    "object": "fine_tuning.credential",
    "type": "mlflow",
    "server": "https://mlflow.example",
    "username": "ann",
    "created_at": 1_760_000_000,
    "updated_at": 1_760_000_000,
}
_SECRET = Path(__file__).with_name("tracking_secret.txt")
_GRADER = Path(__file__).with_name("grader.json")
_OPTIONS = (
    "--validation-file-id file-2 --suffix pirate --method dpo --epochs 3 --batch-size 4 --learning-rate-multiplier 0.5 "
    "--early-stopping-patience 2 --beta 0.2 --seed 7 --gpu 1 --workers 2"
)


def row(line: str, route: str, answer: dict[str, Any], shows: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """The fields of a case."""
    return {"line": f"fine-tuning {line}", "route": route, "answer": answer, "shows": shows, **more}


def page(record: dict[str, Any]) -> dict[str, Any]:
    """A list with one record."""
    return {"object": "list", "data": [record], "has_more": False}


ROWS = [
    row(
        "jobs create --model smol --training-file-id file-1",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={"model": "smol", "training_file": "file-1", "method": {"type": "supervised"}},
    ),
    row(
        f"jobs create --model smol --training-file-id file-1 {_OPTIONS}",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "file-1",
            "validation_file": "file-2",
            "suffix": "pirate",
            "seed": 7,
            "method": {
                "type": "dpo",
                "dpo": {
                    "hyperparameters": {
                        "n_epochs": 3,
                        "batch_size": 4,
                        "learning_rate_multiplier": 0.5,
                        "beta": 0.2,
                        "early_stopping_patience": 2,
                    }
                },
            },
            "resources": {"gpu_count": 1, "worker_count": 2},
        },
    ),
    row(
        "jobs create --model smol --training-file-id f --validation-file-id v --alias bot --gate-max-loss 1.5"
        " --gate-better-than-base",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "f",
            "validation_file": "v",
            "method": {"type": "supervised"},
            "promotion": {
                "alias": "bot",
                "gate": {"type": "validation_loss", "maximum": 1.5, "better_than": "base"},
            },
        },
    ),
    row(
        "jobs create --model smol --training-file-id f --validation-file-id v --alias bot --gate-margin 0.1"
        f" --gate-grader {_GRADER}",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "f",
            "validation_file": "v",
            "method": {"type": "supervised"},
            "promotion": {
                "alias": "bot",
                "gate": {"type": "grader", "grader": json.loads(_GRADER.read_text()), "margin": 0.1},
            },
        },
    ),
    row(
        "jobs create --model smol --training-file-id f --training-type full",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "f",
            "method": {"type": "supervised"},
            "training_type": {"type": "full"},
        },
    ),
    row(
        "jobs create --model smol --training-file-id f --wandb-project pirates --mlflow-experiment e --run-name first",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "f",
            "method": {"type": "supervised"},
            "integrations": [
                {"type": "wandb", "wandb": {"project": "pirates", "name": "first"}},
                {"type": "mlflow", "mlflow": {"experiment": "e", "run_name": "first"}},
            ],
        },
    ),
    row(
        f"jobs create --model smol --training-file-id f --method reinforcement --grader {_GRADER} --compute-multiplier 2 "
        "--eval-interval 5 --eval-samples 3 --max-completion-tokens 64 --metadata team=a --metadata note=b=c",
        "POST /fine_tuning/jobs",
        JOB,
        ("Created ftjob-1.",),
        body={
            "model": "smol",
            "training_file": "f",
            "method": {
                "type": "reinforcement",
                "reinforcement": {
                    "hyperparameters": {
                        "compute_multiplier": 2.0,
                        "eval_interval": 5,
                        "eval_samples": 3,
                        "max_completion_tokens": 64,
                    },
                    "grader": json.loads(_GRADER.read_text()),
                },
            },
            "metadata": {"team": "a", "note": "b=c"},
        },
    ),
    row(
        f"credentials set mlflow --username ann --server https://mlflow.example --secret-file {_SECRET}",
        "POST /fine_tuning/credentials",
        CREDENTIAL,
        ("Set ftcred_1 for https://mlflow.example.",),
        body={"type": "mlflow", "secret": "s3cret", "username": "ann", "server": "https://mlflow.example"},
    ),
    row("credentials list", "GET /fine_tuning/credentials", page(CREDENTIAL), ("ftcred_1", "ann", "2025-10-09")),
    row(
        "credentials delete ftcred_1",
        "DELETE /fine_tuning/credentials/ftcred_1",
        {"id": "ftcred_1", "object": "fine_tuning.credential.deleted", "deleted": True},
        ("Deleted ftcred_1.",),
    ),
    row(
        "jobs list --limit 7",
        "GET /fine_tuning/jobs",
        {"object": "list", "data": [JOB, DONE, FAILED], "has_more": False, "total_items": 3},
        ("ftjob-1", "queued (2)", "12/90", "ft:smol:org:x", "Line 4", "2025-10-09"),
        query={"limit": "7"},
    ),
    row(
        "job get ftjob-1",
        "GET /fine_tuning/jobs/ftjob-1",
        JOB,
        ("queued", "Jobs run before it.", "n_epochs 3", "12/90", "3000", "61", "0.009", "0.0012"),
    ),
    row("jobs get ftjob-1", "GET /fine_tuning/jobs/ftjob-1", FAILED, ("(invalid_training_file)",)),
    row("jobs events ftjob-1", "GET /fine_tuning/jobs/ftjob-1/events", page(EVENT), ("Step 1/90", "2.5000")),
    row("jobs events ftjob-1", "GET /fine_tuning/jobs/ftjob-1/events", page(REWARDED), ("Step 2/90", "0.7500")),
    row(
        "jobs checkpoints ftjob-1",
        "GET /fine_tuning/jobs/ftjob-1/checkpoints",
        page(CHECKPOINT),
        ("ft:smol:org:x:ckpt-step-30", "1.2500"),
    ),
    row(
        "jobs pause ftjob-1",
        "POST /fine_tuning/jobs/ftjob-1/pause",
        {**JOB, "status": "running", "pause_requested": True},
        ("after its present step",),
        body={},
    ),
    row(
        "jobs pause ftjob-1",
        "POST /fine_tuning/jobs/ftjob-1/pause",
        {**JOB, "status": "paused"},
        ("ftjob-1 is paused.",),
        body={},
    ),
    row("jobs resume ftjob-1", "POST /fine_tuning/jobs/ftjob-1/resume", JOB, ("continues: queued",), body={}),
    row(
        "jobs cancel ftjob-1",
        "POST /fine_tuning/jobs/ftjob-1/cancel",
        {**JOB, "status": "cancelled"},
        ("ftjob-1 has ended.",),
        body={},
    ),
    row("jobs cancel ftjob-1", "POST /fine_tuning/jobs/ftjob-1/cancel", DONE, ("before: succeeded",), body={}),
]
