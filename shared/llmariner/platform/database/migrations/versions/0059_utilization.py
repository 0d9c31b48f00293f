"""How far GPUs and cores that were held were used, by hour."""

import sqlalchemy as sa
from alembic import op

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("allocations", sa.Column("pods", sa.String(256), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "utilization_hours",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("cluster_id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("workload_id", sa.String(256), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("samples", sa.Float, nullable=False),
        sa.Column("busy", sa.Float, nullable=False),
        sa.Column("idle", sa.Float, nullable=False),
        sa.Column("core_seconds", sa.Float),
    )
    op.create_index("ix_utilization_hours_organization", "utilization_hours", ["organization_id", "hour"])
    op.create_table(
        "gpu_node_hours",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("cluster_id", sa.String(64), primary_key=True),
        sa.Column("node", sa.String(253), primary_key=True),
        sa.Column("max_gpus", sa.Float, nullable=False),
        sa.Column("avg_gpus", sa.Float, nullable=False),
        sa.Column("max_memory_mib", sa.Float, nullable=False),
        sa.Column("avg_memory_mib", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("gpu_node_hours")
    op.drop_table("utilization_hours")
    with op.batch_alter_table("allocations") as table:
        table.drop_column("pods")
