"""Whose an event is, as a column; leases of work; who may run on this schema."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Nothing that revision 0008 reads or writes is changed.
_OLDEST_COMPATIBLE = "0008"


def upgrade() -> None:
    op.add_column("events", sa.Column("audience", sa.String(64)))
    op.create_index("ix_events_audience", "events", ["audience", "sequence"])
    op.create_index("ix_consumed_events_at", "consumed_events", ["at"])
    op.create_table(
        "work_leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    compatibility = op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("oldest_revision", sa.String(32), nullable=False),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest_revision": _OLDEST_COMPATIBLE}])


def downgrade() -> None:
    op.drop_table("schema_compatibility")
    op.drop_table("work_leases")
    op.drop_index("ix_consumed_events_at", "consumed_events")
    op.drop_index("ix_events_audience", "events")
    op.drop_column("events", "audience")
