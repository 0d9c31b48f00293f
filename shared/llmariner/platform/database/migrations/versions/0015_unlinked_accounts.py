"""When an account was unlinked from its sign-in: tokens that were made before do not link it again."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("unlinked_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("users", "unlinked_at")
