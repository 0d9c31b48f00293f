"""Allocations of an organization in the order of their starts, for their export."""

from alembic import op

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_allocations_started", "allocations", ["organization_id", "started_ms", "id"])


def downgrade() -> None:
    op.drop_index("ix_allocations_started", "allocations")
