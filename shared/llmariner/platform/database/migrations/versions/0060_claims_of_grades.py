"""Claims of grades: an answer for which two requests ask at the same time is graded by one of them."""

import sqlalchemy as sa
from alembic import op

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_grades", sa.Column("claimed_digest", sa.String(64)))
    op.add_column("fine_tuning_grades", sa.Column("claimed_until", sa.Float))


def downgrade() -> None:
    op.drop_column("fine_tuning_grades", "claimed_until")
    op.drop_column("fine_tuning_grades", "claimed_digest")
