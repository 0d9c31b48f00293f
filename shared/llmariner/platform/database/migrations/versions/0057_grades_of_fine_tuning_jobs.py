"""Grades that are kept of fine-tuning jobs, how many a state has, and the estimate of a gate's answers."""

import sqlalchemy as sa
from alembic import op

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("state_graded", sa.Integer))
    op.add_column("fine_tuning_jobs", sa.Column("estimate_gate", sa.Text))
    op.create_table(
        "fine_tuning_grades",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("grader", sa.String(16), primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("place", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reward", sa.Float, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("fine_tuning_grades")
    op.drop_column("fine_tuning_jobs", "estimate_gate")
    op.drop_column("fine_tuning_jobs", "state_graded")
