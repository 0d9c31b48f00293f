"""The number of workers of a fine-tuning job."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("worker_count", sa.Integer))


def downgrade() -> None:
    op.drop_column("fine_tuning_jobs", "worker_count")
