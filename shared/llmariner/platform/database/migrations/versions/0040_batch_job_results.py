"""Files that batch jobs left are results of theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_jobs", sa.Column("results_error", sa.Text()))
    op.create_table(
        "batch_job_results",
        sa.Column("batch_job_id", sa.String(64), sa.ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Index("ix_batch_job_results_file_id", "file_id"),
    )


def downgrade() -> None:
    op.drop_table("batch_job_results")
    op.drop_column("batch_jobs", "results_error")
