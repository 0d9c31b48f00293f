"""Rebuilds of vector stores in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vector_stores", sa.Column("rebuild_requested_at", sa.Float))
    op.add_column("vector_stores", sa.Column("rebuild_user_id", sa.String(64)))
    op.add_column("vector_stores", sa.Column("rebuild_key_id", sa.String(64)))
    op.create_index("ix_vector_stores_rebuild_requested_at", "vector_stores", ["rebuild_requested_at"])
    op.add_column("vector_store_files", sa.Column("completed_at", sa.BigInteger))
    op.add_column("vector_store_files", sa.Column("rebuild_at", sa.Float))


def downgrade() -> None:
    for column in ("rebuild_at", "completed_at"):
        op.drop_column("vector_store_files", column)
    op.drop_index("ix_vector_stores_rebuild_requested_at", "vector_stores")
    for column in ("rebuild_key_id", "rebuild_user_id", "rebuild_requested_at"):
        op.drop_column("vector_stores", column)
