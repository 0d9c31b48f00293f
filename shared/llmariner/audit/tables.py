"""Tables of the audit log. Times are in seconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text

from llmariner.platform.database import metadata

__all__ = ["audit_heads", "audit_log"]

# SQLite autoincrements only columns of the exact type INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

audit_log = Table(
    "audit_log",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    # No foreign keys: entries outlive the resources that they name.
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64)),
    Column("type", String(64), nullable=False),
    Column("at", Float, nullable=False),
    # JSON text, exactly as it was hashed.
    Column("actor", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_log_organization", "organization_id", "sequence"),
)

# The head of each organization's chain. Its row is the lock that serializes concurrent writers.
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("organization_id", String(64), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
)
