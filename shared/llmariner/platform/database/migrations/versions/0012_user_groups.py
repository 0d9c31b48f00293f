"""Who is in which group, with an index, and whom an owner removed from where."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_LONGEST_NAME = 256


def upgrade() -> None:
    user_groups = op.create_table(
        "user_groups",
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_groups_user_id_users")),
        sa.PrimaryKeyConstraint("user_id", "name", name=op.f("pk_user_groups")),
    )
    op.create_index("ix_user_groups_name", "user_groups", ["issuer", "name", "user_id"])
    op.create_table(
        "removals",
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("removed_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_removals_organization_id_organizations")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_removals_user_id_users")),
        sa.PrimaryKeyConstraint("organization_id", "project_id", "user_id", name=op.f("pk_removals")),
    )
    op.create_index("ix_removals_user_id", "removals", ["user_id"])
    users = sa.table("users", *map(sa.column, ("id", "issuer", "groups")))
    told = sa.select(users.c.id, users.c.issuer, users.c.groups)
    for person in op.get_bind().execute(told.where(users.c.groups.is_not(None), users.c.issuer.is_not(None))).all():
        names = sorted({name for name in json.loads(person.groups) if len(name) <= _LONGEST_NAME})
        if names:
            op.bulk_insert(user_groups, [{"user_id": person.id, "name": n, "issuer": person.issuer} for n in names])


def downgrade() -> None:
    op.drop_table("removals")
    op.drop_table("user_groups")
