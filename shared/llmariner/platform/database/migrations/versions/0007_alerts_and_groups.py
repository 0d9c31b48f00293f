"""Spend alerts, which are budgets beside the one of a period; and groups of the issuer that are known by an id."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ONE = sa.text("channel IS NULL")
_SUBJECT = ["organization_id", "subject", "subject_id"]


def upgrade() -> None:
    op.add_column("budgets", sa.Column("channel", sa.Text))
    op.drop_index("ix_budgets_subject", "budgets")
    op.create_index(
        "ix_budgets_subject", "budgets", [*_SUBJECT, "period"], unique=True, sqlite_where=_ONE, postgresql_where=_ONE
    )
    op.create_index("ix_budgets_alerts", "budgets", _SUBJECT)
    groups = op.create_table(
        "groups",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_groups_name", "groups", ["organization_id", "issuer", "name"], unique=True)
    _name_what_has_a_role(groups)


def downgrade() -> None:
    op.drop_table("groups")
    op.execute("DELETE FROM allowances WHERE id IN (SELECT id FROM budgets WHERE channel IS NOT NULL)")
    op.execute("DELETE FROM budgets WHERE channel IS NOT NULL")
    op.drop_index("ix_budgets_alerts", "budgets")
    op.drop_index("ix_budgets_subject", "budgets")
    op.drop_column("budgets", "channel")
    op.create_index("ix_budgets_subject", "budgets", [*_SUBJECT, "period"], unique=True)


def _name_what_has_a_role(groups: sa.Table) -> None:
    mapped = op.get_bind().execute(
        sa.text("SELECT organization_id, issuer, group_name, MIN(created_at) FROM group_roles GROUP BY 1, 2, 3")
    )
    rows = [
        {
            "id": f"group_{secrets.token_hex(8)}",
            "organization_id": organization_id,
            "issuer": issuer,
            "name": name,
            "created_at": created_at,
        }
        for organization_id, issuer, name, created_at in mapped
    ]
    if rows:
        op.bulk_insert(groups, rows)
