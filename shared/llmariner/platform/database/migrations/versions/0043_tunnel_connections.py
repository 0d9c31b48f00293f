"""Which replica of the sessions function holds which connections of agents."""

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tunnel_connections",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("cluster_id", sa.String(64), sa.ForeignKey("clusters.id", ondelete="CASCADE"), nullable=False),
        sa.Column("replica_url", sa.String(256), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Index("ix_tunnel_connections_cluster_id", "cluster_id", "expires_at"),
    )


def downgrade() -> None:
    op.drop_table("tunnel_connections")
