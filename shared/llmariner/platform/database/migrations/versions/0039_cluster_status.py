"""What agents report of their clusters, how GPUs are shared, and telemetry by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clusters", sa.Column("delete_requested_at", sa.BigInteger))
    op.create_index("ix_clusters_delete_requested_at", "clusters", ["delete_requested_at"])
    op.create_table(
        "cluster_statuses",
        sa.Column("cluster_id", sa.String(64), sa.ForeignKey("clusters.id"), primary_key=True),
        sa.Column("heartbeat_at", sa.Float, nullable=False),
        sa.Column("agent_version", sa.String(64), nullable=False),
        sa.Column("protocol_version", sa.Integer, nullable=False),
        sa.Column("kubernetes_version", sa.String(64), nullable=False),
        sa.Column("clock_skew_seconds", sa.Float),
        sa.Column("components", sa.Text, nullable=False),
        sa.Column("products", sa.Text),
        sa.Column("inventory", sa.Text),
        sa.Column("inventory_at", sa.Float),
        sa.Column("workloads", sa.Integer),
    )
    op.create_table(
        "cluster_configs",
        sa.Column("cluster_id", sa.String(64), sa.ForeignKey("clusters.id"), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("device_plugin", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("reported_generation", sa.BigInteger),
        sa.Column("reported_applied", sa.Boolean),
        sa.Column("reported_message", sa.Text),
    )
    op.create_table(
        "cluster_snapshots",
        sa.Column("cluster_id", sa.String(64), primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("product", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64)),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("nodes", sa.BigInteger, nullable=False),
        sa.Column("gpus", sa.BigInteger, nullable=False),
        sa.Column("allocated_gpus", sa.BigInteger, nullable=False),
        sa.Column("gpu_memory_mib", sa.BigInteger, nullable=False),
        sa.Column("pods", sa.BigInteger, nullable=False),
        sa.Index("ix_cluster_snapshots_organization", "organization_id", "hour"),
        sa.Index("ix_cluster_snapshots_hour", "hour"),
    )


def downgrade() -> None:
    for table in ("cluster_snapshots", "cluster_configs", "cluster_statuses"):
        op.drop_table(table)
    op.drop_index("ix_clusters_delete_requested_at", "clusters")
    op.drop_column("clusters", "delete_requested_at")
