"""The table of open connections of agents."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, String, Table

from llmariner.platform.database import metadata

__all__ = ["tunnel_connections"]

tunnel_connections = Table(
    "tunnel_connections",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("cluster_id", String(64), ForeignKey("clusters.id", ondelete="CASCADE"), nullable=False),
    # Where other replicas reach the one that holds the connection.
    Column("replica_url", String(256), nullable=False),
    # Seconds since 1970; the replica renews it while the connection is open.
    Column("expires_at", Float, nullable=False),
    Index("ix_tunnel_connections_cluster_id", "cluster_id", "expires_at"),
)
