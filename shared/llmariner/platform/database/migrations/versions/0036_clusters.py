"""Clusters and the keyed hashes of their registration keys."""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clusters",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id")),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), unique=True),
        sa.Column("previous_digest", sa.String(64)),
        sa.Column("previous_expires_at", sa.Float),
        sa.Column("key_prefix", sa.String(64)),
        sa.Column("key_created_at", sa.BigInteger),
        sa.Column("drain_requested_at", sa.BigInteger),
        sa.Index("uq_clusters_organization_name", "organization_id", "name", unique=True),
        sa.Index("ix_clusters_previous_digest", "previous_digest"),
    )


def downgrade() -> None:
    op.drop_table("clusters")
