"""Tables of clusters. Times are seconds since 1970; objects are stored as JSON text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, String, Table

from llmariner.platform.database import metadata

__all__ = ["clusters"]

clusters = Table(
    "clusters",
    metadata,
    Column("id", String(64), primary_key=True),
    # NULL: the cluster or machine of the control plane, which all organizations share.
    Column("organization_id", String(64), ForeignKey("organizations.id")),
    Column("name", String(256), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Keyed hashes of the registration key, and of the one before it; NULL: none that is valid.
    Column("digest", String(64), unique=True),
    Column("previous_digest", String(64)),
    Column("previous_expires_at", Float),
    Column("key_prefix", String(64)),
    Column("key_created_at", BigInteger),
    # New work is placed elsewhere from then on.
    Column("drain_requested_at", BigInteger),
    Index("uq_clusters_organization_name", "organization_id", "name", unique=True),
    Index("ix_clusters_previous_digest", "previous_digest"),
)
