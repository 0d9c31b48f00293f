"""GPUs of notebooks."""

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("notebooks", sa.Column("gpu_count", sa.Integer))


def downgrade() -> None:
    op.drop_column("notebooks", "gpu_count")
