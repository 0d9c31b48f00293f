"""Fine-tuning jobs on worker clusters."""

import sqlalchemy as sa
from alembic import op

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("cluster_id", sa.String(64)))
    op.add_column("fine_tuning_jobs", sa.Column("requested_cluster_id", sa.String(64)))
    op.add_column("fine_tuning_jobs", sa.Column("placed_at", sa.Float))
    op.create_index("ix_fine_tuning_jobs_cluster_id", "fine_tuning_jobs", ["cluster_id", "finished_at"])


def downgrade() -> None:
    op.drop_index("ix_fine_tuning_jobs_cluster_id", table_name="fine_tuning_jobs")
    with op.batch_alter_table("fine_tuning_jobs") as table:
        for name in ("placed_at", "requested_cluster_id", "cluster_id"):
            table.drop_column(name)
