"""Fine-tuning jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("model_bytes", sa.BigInteger, nullable=False),
        sa.Column("model_id", sa.String(256), nullable=False),
        sa.Column("model_created_at", sa.BigInteger, nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("requested", sa.Text, nullable=False),
        sa.Column("hyperparameters", sa.Text),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_param", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("checked_file", sa.String(64)),
        sa.Column("checked_bytes", sa.BigInteger, nullable=False),
        sa.Column("checked_lines", sa.BigInteger, nullable=False),
        sa.Column("examples", sa.BigInteger),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("total_steps", sa.BigInteger),
        sa.Column("tokens_per_second", sa.Float),
        sa.Column("state_file", sa.String(64)),
        sa.Column("state_step", sa.BigInteger),
        sa.Column("output_model", sa.String(256), nullable=False),
        sa.Column("result_file", sa.String(64)),
        sa.Column("trained_tokens", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("pause_requested_at", sa.Float),
        sa.Column("released", sa.Boolean, nullable=False),
        sa.Index("ix_fine_tuning_jobs_project", "project_id", "id"),
        sa.Index("ix_fine_tuning_jobs_status", "project_id", "status"),
        sa.Index("ix_fine_tuning_jobs_released", "released", "id"),
        sa.Index("ix_fine_tuning_jobs_unfinished", "finished_at", "id"),
    )
    op.create_table(
        "fine_tuning_files",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Index("ix_fine_tuning_files_file_id", "file_id"),
    )
    op.create_table(
        "fine_tuning_events",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger),
        sa.Column("data", sa.Text, nullable=False),
        sa.Index("ix_fine_tuning_events_job", "job_id", "id"),
        sa.UniqueConstraint("job_id", "step", name="uq_fine_tuning_events_step"),
    )
    op.create_table(
        "fine_tuning_checkpoints",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Index("ix_fine_tuning_checkpoints_job", "job_id", "id"),
        sa.UniqueConstraint("job_id", "step", name="uq_fine_tuning_checkpoints_step"),
    )
    op.create_table(
        "fine_tuning_permissions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("location", sa.String(1024), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Index("ix_fine_tuning_permissions_model", "organization_id", "model", "id"),
        sa.UniqueConstraint("model", "project_id", name="uq_fine_tuning_permissions_project"),
    )


def downgrade() -> None:
    op.drop_table("fine_tuning_permissions")
    op.drop_table("fine_tuning_checkpoints")
    op.drop_table("fine_tuning_events")
    op.drop_table("fine_tuning_files")
    op.drop_table("fine_tuning_jobs")
