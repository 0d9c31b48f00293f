"""Rows of fine-tuning jobs."""

from __future__ import annotations

from typing import Any

from llmariner.tenancy.principal import KeyOwner

__all__ = ["GRADER", "training_job"]

GRADER = {
    "type": "string_check",
    "name": "pirate",
    "input": "{{ sample.output_text }}",
    "reference": "Arrr",
    "operation": "like",
}


def training_job(job_id: str, owner: KeyOwner) -> dict[str, Any]:
    """The row of a job that trains in its first attempt."""
    return {
        "id": job_id,
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "model": "tiny",
        "model_bytes": 1,
        "model_id": "tiny",
        "model_created_at": 1,
        "training_file": "file-1",
        "method": "supervised",
        "requested": "{}",
        "seed": 1,
        "metadata": "{}",
        "status": "running",
        "stage": "train",
        "output_model": f"ft:tiny:{job_id}",
        "created_at": 1,
        "released": False,
        **dict.fromkeys(("attempt", "failures", "checked_bytes", "checked_lines", "step", "trained_tokens"), 0),
    }
