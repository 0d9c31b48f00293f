"""How often pods of a batch job named their files, and which quotas are in effect."""

import sqlalchemy as sa
from alembic import op

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_jobs", sa.Column("results_named", sa.Integer, nullable=False, server_default="0"))
    op.add_column("quota_revisions", sa.Column("applied_revision", sa.BigInteger))
    op.add_column("quota_revisions", sa.Column("applied_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("quota_revisions", "applied_at")
    op.drop_column("quota_revisions", "applied_revision")
    op.drop_column("batch_jobs", "results_named")
