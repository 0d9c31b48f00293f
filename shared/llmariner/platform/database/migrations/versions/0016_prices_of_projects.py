"""A price may be of a project's own model."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("prices", sa.Column("project_id", sa.String(64)))


def downgrade() -> None:
    op.drop_column("prices", "project_id")
