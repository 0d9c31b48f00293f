"""Who set a quota, and revisions of the quotas of an organization."""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("quotas", sa.Column("set_by", sa.String(16)))
    op.create_table(
        "quota_revisions",
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("quota_revisions")
    op.drop_column("quotas", "set_by")
