"""Whose limits or budgets changed, by revision."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rule_changes",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("subject", sa.String(16), primary_key=True),
        sa.Column("subject_id", sa.String(64), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("rule_changes")
