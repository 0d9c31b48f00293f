"""Indexes for what a process or a model used last.

Built over all requests, which takes minutes, and so alone: a lock of another table that is not had in time must not undo it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # They are there where revision 0010 made them, before 0.4 was released.
    op.create_index(
        "ix_ledger_requests_process",
        "ledger_requests",
        [sa.text("substr(request_id, 1, 24)"), "seen_at"],
        if_not_exists=True,
    )
    op.create_index("ix_ledger_requests_model_seen", "ledger_requests", ["model", "seen_at"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index("ix_ledger_requests_model_seen", "ledger_requests")
    op.drop_index("ix_ledger_requests_process", "ledger_requests")
