"""What of a model a fine-tuning job trains; null: an adapter."""

import sqlalchemy as sa
from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("training_type", sa.String(16)))


def downgrade() -> None:
    op.drop_column("fine_tuning_jobs", "training_type")
