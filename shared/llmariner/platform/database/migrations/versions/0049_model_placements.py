"""Engines of models on worker clusters."""

import sqlalchemy as sa
from alembic import op

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_placements",
        sa.Column("model_id", sa.String(256), primary_key=True),
        sa.Column("adapters_of", sa.String(64), primary_key=True),
        sa.Column("cluster_id", sa.String(64), primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("woken_at", sa.Float, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
    )
    op.create_index("ix_model_placements_cluster", "model_placements", ["cluster_id"])


def downgrade() -> None:
    op.drop_table("model_placements")
