"""Tables of the events port. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from llmariner.platform.database import metadata

__all__ = ["consumed_events", "deliveries", "events"]

# SQLite numbers rows by itself only in a column of the exact type INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

events = Table(
    "events",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("type", String(128), nullable=False),
    Column("subject", String(512), nullable=False),
    # Whose event it is; None: of the installation.
    Column("project_id", String(64)),
    Column("time", Float, nullable=False),
    Column("data", Text, nullable=False),
    Column("published", Boolean, nullable=False),
    Index("ix_events_unpublished", "published", "sequence"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sequence", _Sequence, ForeignKey("events.sequence"), primary_key=True),
    Column("consumer", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("last_error", Text),
    Index("ix_deliveries_due", "state", "due_at"),
)

consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("at", Float, nullable=False),
)
