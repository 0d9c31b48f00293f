"""Allocations of compute, their prices, and what budgets were charged for them."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "allocations",
        sa.Column("id", sa.String(400), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("workload_id", sa.String(256), nullable=False),
        *(sa.Column(name, sa.String(64), nullable=False) for name in ("organization_id", "project_id", "user_id")),
        sa.Column("cluster_id", sa.String(64), nullable=False, server_default=sa.text("''")),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("millicores", "memory_mib")),
        *(sa.Column(f"{name}_ms", sa.BigInteger, nullable=False) for name in ("started", "seen", "ended", "charged")),
        sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Index("ix_allocations_organization", "organization_id", "ended_ms", "started_ms"),
        sa.Index("ix_allocations_time", "ended_ms", "started_ms"),
        sa.Index("ix_allocations_workload", "kind", "workload_id"),
        sa.Index("ix_allocations_unsettled", "settled", "id"),
    )
    op.create_table(
        "compute_prices",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("valid_from", sa.Float, nullable=False),
        sa.Column("valid_to", sa.Float),
        *(sa.Column(f"{name}_hour", sa.BigInteger, nullable=False) for name in ("gpu", "core", "gib")),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Index("ix_compute_prices_device", "device", "valid_from"),
    )
    op.create_table(
        "compute_charges",
        sa.Column("organization_id", sa.String(64), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("compute_charges")
    op.drop_table("compute_prices")
    op.drop_table("allocations")
