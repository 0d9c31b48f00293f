"""Limits, budgets, and what is used and leased of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MEASURES = (
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "queue_share",
)


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.String(64), primary_key=True),
        *_subject(),
        sa.Column("model", sa.String(256), nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in _MEASURES),
        *_times(),
    )
    op.create_index("ix_limits_subject", "limits", ["organization_id", "subject", "subject_id", "model"], unique=True)
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(64), primary_key=True),
        *_subject(),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("alert_ratio", sa.Float),
        sa.Column("hard", sa.Boolean, nullable=False),
        *_times(),
    )
    op.create_index(
        "ix_budgets_subject", "budgets", ["organization_id", "subject", "subject_id", "period"], unique=True
    )
    op.create_table(
        "allowances",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("rule", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("allowances", "budgets", "limits"):
        op.drop_table(table)


def _subject() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.String(64), nullable=False),
    )


def _times() -> tuple[sa.Column[int], ...]:
    return (
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
