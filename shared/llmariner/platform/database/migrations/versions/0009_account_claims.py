"""Until when an account may be claimed by a first sign-in, and a first administrator whom no sign-in is linked to.

The first administrator was an ordinary person before: whoever's directory entry said its public address became it. A sign-in
that is linked to it is taken off.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("claimable_until", sa.BigInteger))
    users = sa.table("users", *map(sa.column, ("email", "kind", "issuer", "subject", "groups")))
    administrator = (users.c.email == "admin@localhost") & (users.c.kind == "person")
    unlinked = {"kind": "bootstrap", "issuer": None, "subject": None, "groups": None}
    op.execute(users.update().where(administrator).values(**unlinked))


def downgrade() -> None:
    users = sa.table("users", sa.column("kind"))
    op.execute(users.update().where(users.c.kind == "bootstrap").values(kind="person"))
    op.drop_column("users", "claimable_until")
