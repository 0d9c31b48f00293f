"""The JSON of batch jobs: upstream's fields, and those that say more."""

from __future__ import annotations

from typing import Any

from llmariner.batch_jobs.batch_job import BatchJob
from llmariner.platform.jobs import Phase

__all__ = ["batch_job_object"]


def batch_job_object(job: BatchJob) -> dict[str, Any]:
    """The JSON object of a job. Times are whole Unix seconds; 0 or null where there is none, as upstream has it."""
    error = {"code": job.error_code, "message": job.error_message} if job.error_code else None
    return {
        "id": job.id,
        "object": "batch.job",
        "created_at": job.created_at,
        "started_at": int(job.started_at or 0),
        "finished_at": int(job.finished_at or 0),
        "cancel_requested_at": int(job.cancel_requested_at or 0),
        "pause_requested_at": int(job.pause_requested_at or 0),
        "status": job.status.value,
        "queue": {"place": job.place, "reason": job.reason} if job.status is Phase.QUEUED else None,
        "error": error,
        "backoff_limit": job.backoff_limit,
        "restarts": job.restarts,
        "image": job.image,
        "command": job.command,
        "scripts": list(job.script_names),
        "envs": dict(job.envs),
        "data_files": list(job.data_files),
        "result_files": [{"id": each.file_id, "name": each.name, "bytes": each.size_bytes} for each in job.results],
        "results_error": job.results_error,
        "resources": {"gpu_count": job.gpu_count},
        "kind": None if job.worker_count is None else {"pytorch": {"worker_count": job.worker_count}},
        "environment": job.environment,
        "project_id": job.project_id,
        "organization_id": job.organization_id,
        "kubernetes_namespace": "",
        "cluster_id": job.cluster_id or "",
        "cluster_name": job.cluster_name or "",
    }
