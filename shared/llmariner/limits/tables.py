"""Tables of limits and budgets. Times are seconds since 1970, money is nano-dollars; NULL in a limit: not limited."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, String, Table, Text, text

from llmariner.platform.database import metadata

__all__ = ["allowances", "budgets", "limits", "rule_changes"]

_NOT_AN_ALERT = text("channel IS NULL")


def _subject() -> tuple[Column[str], Column[str], Column[str]]:
    """The columns of the subject: an organization, or a project, a user or a key inside it."""
    return (
        Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False),
        Column("subject", String(16), nullable=False),
        Column("subject_id", String(64), nullable=False),
    )


limits = Table(
    "limits",
    metadata,
    Column("id", String(64), primary_key=True),
    *_subject(),
    # A model's id, or '*': all models together.
    Column("model", String(256), nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("requests_per_day", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("queue_share", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_limits_subject", "organization_id", "subject", "subject_id", "model", unique=True),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String(64), primary_key=True),
    *_subject(),
    Column("period", String(8), nullable=False),
    Column("amount", BigInteger, nullable=False),
    # The spent part of the amount that triggers an alert; NULL: no alert.
    Column("alert_ratio", Float),
    # Whether requests are rejected once it is spent.
    Column("hard", Boolean, nullable=False),
    # JSON: the recipients of a spend alert, of which there may be many; NULL: the one budget of the period.
    Column("channel", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index(
        "ix_budgets_subject",
        "organization_id",
        "subject",
        "subject_id",
        "period",
        unique=True,
        sqlite_where=_NOT_AN_ALERT,
        postgresql_where=_NOT_AN_ALERT,
    ),
    Index("ix_budgets_alerts", "organization_id", "subject", "subject_id"),
)

# The usage and leases of one limit or budget, locked while leases are granted; the id is that of the limit or budget.
# `rule` is a copy of its rule, so that leasing reads one row per rule; NULL: the default limit of a key without one of its
# own. Both are JSON; `limits.quota_state` defines the state.
allowances = Table(
    "allowances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("rule", Text),
    Column("state", Text, nullable=False),
)

# The subjects whose limits or budgets a revision of `limits` changed; the last thousand revisions are kept.
rule_changes = Table(
    "rule_changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", String(16), primary_key=True),
    Column("subject_id", String(64), primary_key=True),
)
