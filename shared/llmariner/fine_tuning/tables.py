"""Tables of fine-tuning jobs. Times are seconds since 1970.

Rows are the truth of what is asked for and what was learned, the jobs port of what runs.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = [
    "fine_tuning_checkpoints",
    "fine_tuning_credentials",
    "fine_tuning_events",
    "fine_tuning_files",
    "fine_tuning_jobs",
    "fine_tuning_metadata",
    "fine_tuning_permissions",
    "fine_tuning_runs",
]

fine_tuning_jobs = Table(
    "fine_tuning_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    # Who created it: the job may do what they may do now. NULL: a signed-in person without a key.
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64)),
    # The name of the base model, the size of its weights, and its id in the registry with its time of creation.
    Column("model", String(256), nullable=False),
    Column("model_bytes", BigInteger, nullable=False),
    Column("model_id", String(256), nullable=False),
    Column("model_created_at", BigInteger, nullable=False),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    # supervised, dpo, reinforcement.
    Column("method", String(16), nullable=False),
    # lora, qlora, full. NULL, by the release before: lora.
    Column("training_type", String(16)),
    # JSON objects: as asked for, where a value may be "auto", and the numbers that follow; NULL before the check.
    Column("requested", Text, nullable=False),
    Column("hyperparameters", Text),
    # Of reinforcement: the grader as a JSON object, and how many answers its models may still grade. Else NULL.
    Column("grader", Text),
    Column("grades_left", BigInteger),
    Column("seed", BigInteger, nullable=False),
    Column("suffix", String(64)),
    Column("metadata", Text, nullable=False),
    # A JSON list of types and settings. NULL: none.
    Column("integrations", Text),
    # A JSON object: the alias that moves to the result, and its gate. NULL: none. What the gate decided, once it has.
    Column("promotion", Text),
    Column("promotion_result", Text),
    # The loss of the model without its adapter on the whole validation file, where a gate compares it.
    Column("base_valid_loss", Float),
    # validating_files, queued, running, paused, succeeded, failed, cancelled.
    Column("status", String(16), nullable=False),
    Column("error_code", String(64)),
    Column("error_param", String(64)),
    Column("error_message", SanitizedText),
    # What the process of the job is for: check, train. Each start of one is an attempt.
    Column("stage", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    # Bytes and lines of the file that is checked, up to which its form was found good.
    Column("checked_file", String(64)),
    Column("checked_bytes", BigInteger, nullable=False),
    Column("checked_lines", BigInteger, nullable=False),
    # Of the training file: found by the check.
    Column("examples", BigInteger),
    Column("tokens", BigInteger),
    Column("step", BigInteger, nullable=False),
    Column("total_steps", BigInteger),
    Column("tokens_per_second", Float),
    # The file with the state from which the next attempt continues.
    Column("state_file", String(64)),
    Column("state_step", BigInteger),
    # Answers of the model after that step that a gate had graded by then.
    Column("state_graded", Integer),
    # The name of the result, chosen at creation; it exists once the job has succeeded.
    Column("output_model", String(256), nullable=False),
    Column("result_file", String(64)),
    # Charged ones; `cost`: what they cost in nano-dollars.
    Column("trained_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False, server_default=text("0")),
    # Of the whole job: found by the check. NULL also for jobs that a release before this checked.
    Column("estimate_seconds", Float),
    Column("estimate_cost", BigInteger),
    # The part of both that a gate takes which grades answers, as a JSON object. NULL: there is none.
    Column("estimate_gate", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("pause_requested_at", Float),
    # The process that speaks for the present attempt, by the id that it has chosen. NULL: none has asked for its plan yet.
    Column("process", String(32)),
    # NULL, by the release before: 1.
    Column("worker_count", Integer),
    # When subscribers were last notified of its steps.
    Column("progress_event_at", Float),
    # The worker cluster that runs it, and the one that was asked for; NULL: where the platform runs its own jobs, and none.
    Column("cluster_id", String(64)),
    Column("requested_cluster_id", String(64)),
    # When it was placed on a worker cluster last.
    Column("placed_at", Float),
    # Whether the jobs port has nothing of it any more.
    Column("released", Boolean, nullable=False),
    Index("ix_fine_tuning_jobs_project", "project_id", "id"),
    Index("ix_fine_tuning_jobs_status", "project_id", "status"),
    Index("ix_fine_tuning_jobs_speed", "model_id", "method", "id"),
    Index("ix_fine_tuning_jobs_released", "released", "id"),
    Index("ix_fine_tuning_jobs_unfinished", "finished_at", "id"),
    Index("ix_fine_tuning_jobs_cluster_id", "cluster_id", "finished_at"),
)

# The files of jobs that have not ended: they can't be deleted.
fine_tuning_files = Table(
    "fine_tuning_files",
    metadata,
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Index("ix_fine_tuning_files_file_id", "file_id"),
)

# The metadata of jobs again, by which they are listed.
fine_tuning_metadata = Table(
    "fine_tuning_metadata",
    metadata,
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("value", String(512), nullable=False),
    Index("ix_fine_tuning_metadata_value", "project_id", "name", "value", "job_id"),
)

fine_tuning_events = Table(
    "fine_tuning_events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    # info, warn, error.
    Column("level", String(8), nullable=False),
    Column("message", SanitizedText, nullable=False),
    # The step of an event of the type `metrics`, which a resumed job may report again. NULL: a message.
    Column("step", BigInteger),
    # A JSON object.
    Column("data", Text, nullable=False),
    Index("ix_fine_tuning_events_job", "job_id", "id"),
    UniqueConstraint("job_id", "step", name="uq_fine_tuning_events_step"),
)

# Grades that judging models gave, until the job has a state behind the answer, or has ended.
fine_tuning_grades = Table(
    "fine_tuning_grades",
    metadata,
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
    # `method` or `gate`.
    Column("grader", String(16), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    # Which of the answers of the step, as the process names it.
    Column("place", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    # Of the line and the answer.
    Column("digest", String(64), nullable=False),
    Column("reward", Float, nullable=False),
    # A JSON object, by OpenAI's names.
    Column("errors", Text, nullable=False),
    # The answer that is being graded at this place, and until when that may take. NULL: none. Where no grade was kept here
    # before, `digest` is empty.
    Column("claimed_digest", String(64)),
    Column("claimed_until", Float),
)

fine_tuning_checkpoints = Table(
    "fine_tuning_checkpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("file_id", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    # A JSON object.
    Column("metrics", Text, nullable=False),
    Index("ix_fine_tuning_checkpoints_job", "job_id", "id"),
    Index("ix_fine_tuning_checkpoints_model", "model", "id"),
    UniqueConstraint("job_id", "step", name="uq_fine_tuning_checkpoints_step"),
)

# Other projects that may use a checkpoint, each of which has a model of that name.
fine_tuning_permissions = Table(
    "fine_tuning_permissions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    # As the model of the project has it.
    Column("location", String(1024), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_fine_tuning_permissions_model", "organization_id", "model", "id"),
    UniqueConstraint("model", "project_id", name="uq_fine_tuning_permissions_project"),
)

# The run of each integration of a job, at a tracking server.
fine_tuning_runs = Table(
    "fine_tuning_runs",
    metadata,
    Column("job_id", String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
    # The place of the integration in the job's list.
    Column("number", Integer, primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("type", String(16), nullable=False),
    Column("server", String(256), nullable=False),
    # active, ended, failed.
    Column("state", String(16), nullable=False),
    # As the server has it. NULL: it has not begun.
    Column("run_id", String(256)),
    Column("run_url", String(1024)),
    Column("run_place", String(1024)),
    # The last step that was sent, and how many were.
    Column("sent_step", BigInteger, nullable=False),
    Column("sent_points", BigInteger, nullable=False),
    # Requests to send what happened, and how many of them were served.
    Column("requested", BigInteger, nullable=False),
    Column("served", BigInteger, nullable=False),
    # When the last request was sent; until when a process serves it.
    Column("asked_at", Float, nullable=False),
    Column("leased_until", Float, nullable=False),
    # The next attempt after a failed one; failed attempts in a row, and since when.
    Column("retry_at", Float, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("failing_since", Float),
    Index("ix_fine_tuning_runs_state", "state", "retry_at"),
)

fine_tuning_credentials = Table(
    "fine_tuning_credentials",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("type", String(16), nullable=False),
    Column("server", String(256), nullable=False),
    Column("username", String(256)),
    # Encrypted; and which of the installation's keys encrypted it.
    Column("sealed", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_fine_tuning_credentials_key_id", "key_id"),
    UniqueConstraint("project_id", "type", "server", name="uq_fine_tuning_credentials_server"),
)
