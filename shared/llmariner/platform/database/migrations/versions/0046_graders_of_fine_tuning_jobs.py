"""The graders of fine-tuning jobs by reinforcement."""

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("grader", sa.Text))
    op.add_column("fine_tuning_jobs", sa.Column("grades_left", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("fine_tuning_jobs", "grades_left")
    op.drop_column("fine_tuning_jobs", "grader")
