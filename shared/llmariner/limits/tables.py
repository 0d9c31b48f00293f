"""Tables of limits and budgets. Times are seconds since 1970, money is nano-dollars; NULL in a limit: none."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, String, Table, Text, text

from llmariner.platform.database import metadata

__all__ = ["allowances", "budgets", "limits", "rule_changes"]

_ONE = text("channel IS NULL")


def _subject() -> tuple[Column[str], Column[str], Column[str]]:
    """Whom it binds: an organization, a project, a user or a key, always inside one organisation."""
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
    # One model's id, or '*': all of them together.
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
    # At which part of the amount somebody is told; NULL: nobody is.
    Column("alert_ratio", Float),
    # Whether requests are refused once it is spent.
    Column("hard", Boolean, nullable=False),
    # JSON: whom a spend alert is for. There may be many of them; NULL: the one budget of the period.
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
        sqlite_where=_ONE,
        postgresql_where=_ONE,
    ),
    Index("ix_budgets_alerts", "organization_id", "subject", "subject_id"),
)

# What is used and what is leased of one limit or budget, locked while slices of it are given out; the id is the limit's
# or budget's own. `rule` is what gateways see of it, so that leasing reads one row per rule; NULL: the default limit of a
# key that has none. Both are JSON; `limits.account` knows the state.
allowances = Table(
    "allowances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("rule", Text),
    Column("state", Text, nullable=False),
)

# Whose limits or budgets changed with which revision of `limits`; the last thousand revisions are kept.
rule_changes = Table(
    "rule_changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", String(16), primary_key=True),
    Column("subject_id", String(64), primary_key=True),
)
