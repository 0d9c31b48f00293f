"""Checkpoints by the name of their model, under which permissions look for them."""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_fine_tuning_checkpoints_model", "fine_tuning_checkpoints", ["model", "id"])


def downgrade() -> None:
    op.drop_index("ix_fine_tuning_checkpoints_model", "fine_tuning_checkpoints")
