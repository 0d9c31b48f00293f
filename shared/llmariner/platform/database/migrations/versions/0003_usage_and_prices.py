"""Prices, what requests cost, and their sums by hour and day; events from which a request can be rebuilt."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_IDENTITY: tuple[tuple[str, Any], ...] = (
    ("organization_id", sa.String(64)),
    ("project_id", sa.String(64)),
    ("user_id", sa.String(64)),
    ("key_id", sa.String(64)),
    ("model", sa.String(256)),
    ("adapter", sa.String(256)),
    ("route", sa.String(64)),
    ("admitted_at", sa.Float),
    ("price_id", sa.String(64)),
)
_ENDING: tuple[tuple[str, Any], ...] = (
    ("outcome", sa.String(16)),
    ("status", sa.Integer),
    ("waited_seconds", sa.Float),
    ("queued_seconds", sa.Float),
    ("wake_seconds", sa.Float),
    ("first_token_seconds", sa.Float),
    ("total_seconds", sa.Float),
)
_OF_REQUESTS = ("adapter", "queued_seconds", "wake_seconds", "total_seconds", "price_id")
_SUMS = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
    "prompt_cost",
    "cached_cost",
    "completion_cost",
    "total_microseconds",
    "first_token_microseconds",
    "first_tokens",
)


def _sum(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    _widen()
    op.create_table(
        "ledger_rollups",
        sa.Column("organization_id", sa.String(64), primary_key=True),
        sa.Column("width", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("route", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.String(16), primary_key=True),
        sa.Column("status", sa.Integer, primary_key=True, autoincrement=False),
        *(_sum(name) for name in _SUMS),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_floor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("admitted_at", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO ledger_floor (id, admitted_at) VALUES (1, 0)")
    op.create_table(
        "prices",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("valid_from", sa.Float, nullable=False),
        sa.Column("valid_to", sa.Float),
        sa.Column("prompt", sa.BigInteger, nullable=False),
        sa.Column("cached_prompt", sa.BigInteger, nullable=False),
        sa.Column("completion", sa.BigInteger, nullable=False),
        sa.Column("request", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_prices_model", "prices", ["model", "valid_from"])
    _tell_events_what_rows_know()
    for width in (3600, 86400):
        _roll_up(width)


def downgrade() -> None:
    for table in ("prices", "ledger_floor", "ledger_rollups"):
        op.drop_table(table)
    op.execute("DELETE FROM ledger_events WHERE kind = 'interrupted'")
    op.drop_index("ix_ledger_requests_admitted_at", "ledger_requests")
    for name in ("cost", *reversed(_OF_REQUESTS), "reasoning_tokens"):
        op.drop_column("ledger_requests", name)
    for name in (*(name for name, _ in reversed(_IDENTITY + _ENDING)), "reasoning_tokens"):
        op.drop_column("ledger_events", name)


def _widen() -> None:
    types = dict(_IDENTITY + _ENDING)
    op.add_column("ledger_events", _sum("reasoning_tokens"))
    for name, type_ in types.items():
        op.add_column("ledger_events", sa.Column(name, type_))
    op.add_column("ledger_requests", _sum("reasoning_tokens"))
    for name in _OF_REQUESTS:
        op.add_column("ledger_requests", sa.Column(name, types[name]))
    op.add_column("ledger_requests", _sum("cost"))
    op.create_index("ix_ledger_requests_admitted_at", "ledger_requests", ["admitted_at"])


def _tell_events_what_rows_know() -> None:
    """So that a request of before can be rebuilt from its events too."""
    op.execute("UPDATE ledger_requests SET total_seconds = closed_at - admitted_at WHERE closed_at IS NOT NULL")
    op.execute(
        "INSERT INTO ledger_events (request_id, sequence, kind, at, prompt_tokens, completion_tokens, cached_tokens, "
        "reasoning_tokens) SELECT request_id, 2147483646, 'interrupted', closed_at, prompt_tokens, completion_tokens, "
        "cached_tokens, reasoning_tokens FROM ledger_requests WHERE outcome = 'interrupted'"
    )
    known = ("organization_id", "project_id", "user_id", "key_id", "model", "route", "admitted_at")
    op.execute(
        f"UPDATE ledger_events SET {', '.join(f'{name} = r.{name}' for name in known)} "
        "FROM ledger_requests r WHERE r.request_id = ledger_events.request_id AND ledger_events.sequence = "
        "(SELECT MIN(e.sequence) FROM ledger_events e WHERE e.request_id = r.request_id)"
    )
    ending = ("outcome", "status", "waited_seconds", "first_token_seconds", "total_seconds")
    op.execute(
        f"UPDATE ledger_events SET {', '.join(f'{name} = r.{name}' for name in ending)} "
        "FROM ledger_requests r WHERE r.request_id = ledger_events.request_id AND ledger_events.kind = 'closed'"
    )


def _roll_up(width: int) -> None:
    # SQLite's own cast cuts, and has no FLOOR everywhere; PostgreSQL's rounds.
    whole = "CAST({} AS BIGINT)" if op.get_bind().dialect.name == "sqlite" else "CAST(FLOOR({}) AS BIGINT)"
    start = f"{whole.format(f'admitted_at / {width}')} * {width}"
    groups = f"organization_id, {start}, project_id, user_id, key_id, model, route, outcome, status"
    total, first = (
        f"COALESCE(SUM({whole.format(f'{name} * 1000000 + 0.5')}), 0)"
        for name in ("total_seconds", "first_token_seconds")
    )
    op.execute(
        "INSERT INTO ledger_rollups (width, organization_id, start, project_id, user_id, key_id, model, route, "
        "outcome, status, requests, prompt_tokens, completion_tokens, cached_tokens, total_microseconds, "
        f"first_token_microseconds, first_tokens) SELECT {width}, {groups}, COUNT(*), SUM(prompt_tokens), "
        f"SUM(completion_tokens), SUM(cached_tokens), {total}, {first}, COUNT(first_token_seconds) "
        f"FROM ledger_requests GROUP BY {groups}"
    )
