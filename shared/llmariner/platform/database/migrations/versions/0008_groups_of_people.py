"""Of which groups a person is, and when the token was made that says so: an older one says nothing new."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("groups", sa.Text))
    op.add_column("users", sa.Column("groups_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("users", "groups_at")
    op.drop_column("users", "groups")
