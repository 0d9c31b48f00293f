"""Worker clusters of batch jobs, what earlier placements left there, and the control plane's address as clusters see it."""

import sqlalchemy as sa
from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_jobs", sa.Column("cluster_id", sa.String(64)))
    op.add_column("batch_jobs", sa.Column("requested_cluster_id", sa.String(64)))
    op.add_column("batch_jobs", sa.Column("placement", sa.Integer, nullable=False, server_default="0"))
    op.add_column("batch_jobs", sa.Column("placed_at", sa.Float))
    op.create_index("ix_batch_jobs_cluster_id", "batch_jobs", ["cluster_id", "placed_at"])
    op.create_table(
        "batch_job_leftovers",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("cluster_id", sa.String(64)),
        sa.Column("due_at", sa.Float, nullable=False),
    )
    op.add_column(
        "cluster_statuses", sa.Column("control_plane_url", sa.String(512), nullable=False, server_default=sa.text("''"))
    )


def downgrade() -> None:
    op.drop_column("cluster_statuses", "control_plane_url")
    op.drop_table("batch_job_leftovers")
    op.drop_index("ix_batch_jobs_cluster_id", table_name="batch_jobs")
    for name in ("placed_at", "placement", "requested_cluster_id", "cluster_id"):
        op.drop_column("batch_jobs", name)
