"""When it was noted that a job left something on a cluster."""

import sqlalchemy as sa
from alembic import op

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_job_leftovers", sa.Column("noted_at", sa.Float))


def downgrade() -> None:
    op.drop_column("batch_job_leftovers", "noted_at")
