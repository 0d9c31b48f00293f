"""Tables of the database port itself. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table

from llmariner.platform.database import metadata

__all__ = ["schema_compatibility", "work_leases"]

# One row: the oldest revision whose code may run on this schema. A migration that removes something raises it.
schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("oldest_revision", String(32), nullable=False),
)

# Work that one process at a time does. `requests` counts the processes that wanted the lease while another held it.
work_leases = Table(
    "work_leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("requests", BigInteger, nullable=False),
)
