"""Metadata of fine-tuning jobs, by which they are listed; when their progress was last sent."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("progress_event_at", sa.Float))
    op.create_table(
        "fine_tuning_metadata",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.Index("ix_fine_tuning_metadata_value", "project_id", "name", "value", "job_id"),
    )


def downgrade() -> None:
    op.drop_table("fine_tuning_metadata")
    op.drop_column("fine_tuning_jobs", "progress_event_at")
