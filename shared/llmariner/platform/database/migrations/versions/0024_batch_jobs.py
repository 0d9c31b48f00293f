"""Batch jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batch_jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("image", sa.String(64), nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("envs", sa.Text, nullable=False),
        sa.Column("scripts", sa.Text, nullable=False),
        sa.Column("script_names", sa.Text, nullable=False),
        sa.Column("data_files", sa.Text, nullable=False),
        sa.Column("worker_count", sa.Integer),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("cancel_requested_at", sa.Float),
        sa.Column("deleted_at", sa.Float),
        sa.Index("ix_batch_jobs_project", "project_id", "id"),
        sa.Index("ix_batch_jobs_status", "project_id", "status"),
        sa.Index("ix_batch_jobs_unfinished", "finished_at", "id"),
        sa.Index("ix_batch_jobs_deleted_at", "deleted_at"),
    )
    op.create_table(
        "batch_job_files",
        sa.Column("batch_job_id", sa.String(64), sa.ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Index("ix_batch_job_files_file_id", "file_id"),
    )


def downgrade() -> None:
    op.drop_table("batch_job_files")
    op.drop_table("batch_jobs")
