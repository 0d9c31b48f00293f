"""Tables of tenancy. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, String, Table, Text

from llmariner.platform.database import metadata

__all__ = ["api_keys", "organizations", "projects", "users"]

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("title", String(256), nullable=False, unique=True),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False),
    Column("title", String(256), nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("email", String(320), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    Column("project_id", String(64), ForeignKey("projects.id"), nullable=False),
    Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False),
    Column("prefix", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", Float),
    Column("excluded_from_rate_limiting", Boolean, nullable=False),
    # The secret is never stored. Two digests, so that a rotated secret may overlap with its successor.
    Column("digest", String(64), nullable=False, unique=True),
    Column("previous_digest", String(64), unique=True),
    Column("previous_expires_at", Float),
    # Rises with every change of any key: what a warm gateway asks for is "changes since".
    Column("revision", BigInteger, nullable=False, index=True),
    Index("ix_api_keys_live_name", "user_id", "name"),
)
