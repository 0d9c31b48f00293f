"""The process that speaks for an attempt of a fine-tuning job."""

import sqlalchemy as sa
from alembic import op

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("process", sa.String(32)))


def downgrade() -> None:
    with op.batch_alter_table("fine_tuning_jobs") as table:
        table.drop_column("process")
