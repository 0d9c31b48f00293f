"""Batch jobs that are paused, and started again."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_jobs", sa.Column("pause_requested_at", sa.Float))
    op.add_column("batch_jobs", sa.Column("backoff_limit", sa.Integer, nullable=False, server_default="0"))
    op.add_column("batch_jobs", sa.Column("restarts", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in ("restarts", "backoff_limit", "pause_requested_at"):
        op.drop_column("batch_jobs", name)
