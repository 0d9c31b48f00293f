"""Aliases that fine-tuning jobs move to their results."""

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("promotion", sa.Text))
    op.add_column("fine_tuning_jobs", sa.Column("base_valid_loss", sa.Float))
    op.add_column("fine_tuning_jobs", sa.Column("promotion_result", sa.Text))


def downgrade() -> None:
    op.drop_column("fine_tuning_jobs", "promotion_result")
    op.drop_column("fine_tuning_jobs", "base_valid_loss")
    op.drop_column("fine_tuning_jobs", "promotion")
