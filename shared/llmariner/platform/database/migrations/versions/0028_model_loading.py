"""Bytes and estimate of a model's loading, and what its files say about it."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("loaded_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("models", sa.Column("total_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("models", sa.Column("loading_seconds_left", sa.Float))
    op.add_column("models", sa.Column("traits", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    for name in ("traits", "loading_seconds_left", "total_bytes", "loaded_bytes"):
        op.drop_column("models", name)
