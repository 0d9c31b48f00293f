"""Tables of batch jobs. Times are seconds since 1970.

Rows are the truth of what is asked for, the jobs port of what runs.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["batch_job_files", "batch_job_results", "batch_jobs"]

batch_jobs = Table(
    "batch_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    # Who created it. NULL: a signed-in person without a key.
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64)),
    Column("image", String(64), nullable=False),
    Column("command", Text, nullable=False),
    # A JSON object: variables of the command.
    Column("envs", Text, nullable=False),
    # A JSON object: names to contents in Base64. Empty once the job has ended.
    Column("scripts", Text, nullable=False),
    # JSON lists: names of scripts, ids of files.
    Column("script_names", Text, nullable=False),
    Column("data_files", Text, nullable=False),
    # Of each worker.
    Column("gpu_count", Integer, nullable=False, server_default="0"),
    # NULL: it is no job of several workers.
    Column("worker_count", Integer),
    # Where the command runs, in words; that of the adapter which took the job.
    Column("environment", Text, nullable=False),
    # queued, running, paused, succeeded, failed, canceled.
    Column("status", String(16), nullable=False),
    Column("error_code", String(64)),
    Column("error_message", SanitizedText),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("cancel_requested_at", Float),
    # It is not to run. NULL again once it is resumed.
    Column("pause_requested_at", Float),
    # How often the command may be started again after a failure, and was.
    Column("backoff_limit", Integer, nullable=False, server_default="0"),
    Column("restarts", Integer, nullable=False, server_default="0"),
    # The worker cluster that runs it, and the one that was asked for; NULL: where the platform runs its own jobs, and none.
    Column("cluster_id", String(64)),
    Column("requested_cluster_id", String(64)),
    # How often it was placed again, and when it was placed last.
    Column("placement", Integer, nullable=False, server_default="0"),
    Column("placed_at", Float),
    # Why files that it left are not among its results.
    Column("results_error", SanitizedText),
    # How often pods named the files that the job leaves.
    Column("results_named", Integer, nullable=False, server_default="0"),
    # It is gone for every caller; a consumer ends it and deletes the row.
    Column("deleted_at", Float),
    Index("ix_batch_jobs_project", "project_id", "id"),
    Index("ix_batch_jobs_status", "project_id", "status"),
    Index("ix_batch_jobs_unfinished", "finished_at", "id"),
    Index("ix_batch_jobs_deleted_at", "deleted_at"),
    Index("ix_batch_jobs_cluster_id", "cluster_id", "placed_at"),
)

# The data files of jobs that have not ended: they can't be deleted.
batch_job_files = Table(
    "batch_job_files",
    metadata,
    Column("batch_job_id", String(64), ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Index("ix_batch_job_files_file_id", "file_id"),
)

# The files that jobs left, which are files of their projects. `name`: below the job's folder, with slashes.
batch_job_results = Table(
    "batch_job_results",
    metadata,
    Column("batch_job_id", String(64), ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("file_id", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Index("ix_batch_job_results_file_id", "file_id"),
)
