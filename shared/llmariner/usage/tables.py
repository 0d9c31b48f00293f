"""Tables of the ledger. Times are seconds since 1970, counts are tokens."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table

from llmariner.platform.database import metadata

__all__ = ["ledger_events", "ledger_requests"]

# What happened to a request, in the order it happened; never changed.
ledger_events = Table(
    "ledger_events",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
)

# The fold of those events: one row per request.
ledger_requests = Table(
    "ledger_requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("route", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("admitted_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("waited_seconds", Float),
    Column("first_token_seconds", Float),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Index("ix_ledger_requests_project_time", "project_id", "admitted_at"),
    Index("ix_ledger_requests_model_time", "model", "admitted_at"),
    Index("ix_ledger_requests_open", "outcome", "seen_at"),
)
