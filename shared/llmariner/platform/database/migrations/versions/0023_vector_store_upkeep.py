"""Indexes for the upkeep of vector stores, and when each was compared with its index."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_ACTIVE = sa.text("expired_at IS NULL AND deleted_at IS NULL")


def upgrade() -> None:
    op.add_column("vector_stores", sa.Column("checked_at", sa.Float, nullable=False, server_default="0"))
    for name, column in (("ix_vector_stores_checked_at", "checked_at"), ("ix_vector_stores_due", "expires_at")):
        op.create_index(name, "vector_stores", [column], sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)


def downgrade() -> None:
    for name in ("ix_vector_stores_due", "ix_vector_stores_checked_at"):
        op.drop_index(name, "vector_stores")
    op.drop_column("vector_stores", "checked_at")
