"""GPUs of the workers of batch jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_jobs", sa.Column("gpu_count", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("batch_jobs", "gpu_count")
