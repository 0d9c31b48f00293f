"""Quotas of projects and organizations."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("subject_id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("project_id", sa.String(64)),
        sa.Column("gpu_nominal", sa.BigInteger),
        sa.Column("cpu_nominal", sa.BigInteger),
        sa.Column("memory_nominal", sa.BigInteger),
        sa.Column("gpu_borrowing", sa.BigInteger),
        sa.Column("cpu_borrowing", sa.BigInteger),
        sa.Column("memory_borrowing", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Index("ix_quotas_organization", "organization_id", "subject_id"),
    )


def downgrade() -> None:
    op.drop_table("quotas")
