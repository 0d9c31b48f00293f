"""Tables of clusters. Times are seconds since 1970; objects are stored as JSON text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, text

from llmariner.platform.database import metadata

__all__ = ["cluster_configs", "cluster_snapshots", "cluster_statuses", "clusters"]

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
    # The cluster is deleted once no work runs there.
    Column("delete_requested_at", BigInteger),
    Index("uq_clusters_organization_name", "organization_id", "name", unique=True),
    Index("ix_clusters_previous_digest", "previous_digest"),
    Index("ix_clusters_delete_requested_at", "delete_requested_at"),
)


def _cluster() -> Column[str]:
    return Column("cluster_id", String(64), ForeignKey("clusters.id"), primary_key=True)


# What the agent of a cluster reported last.
cluster_statuses = Table(
    "cluster_statuses",
    metadata,
    _cluster(),
    Column("heartbeat_at", Float, nullable=False),
    Column("agent_version", String(64), nullable=False),
    Column("protocol_version", Integer, nullable=False),
    Column("kubernetes_version", String(64), nullable=False),
    # Of the agent's clock against the control plane's.
    Column("clock_skew_seconds", Float),
    Column("components", Text, nullable=False),
    # The control plane's, as the agent reaches it; empty: an agent of an earlier release.
    Column("control_plane_url", String(512), nullable=False, server_default=text("''")),
    # The totals by GPU product, and the whole inventory, which is large.
    Column("products", Text),
    Column("inventory", Text),
    Column("inventory_at", Float),
    # Pods of the platform's work, by the last inventory.
    Column("workloads", Integer),
)

# How the GPUs of a cluster are shared. A row stays when the configuration is deleted, since the agent must hear of it.
cluster_configs = Table(
    "cluster_configs",
    metadata,
    _cluster(),
    Column("generation", BigInteger, nullable=False),
    # NULL: deleted.
    Column("device_plugin", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # What the agent said of the newest generation that it has tried to apply.
    Column("reported_generation", BigInteger),
    Column("reported_applied", Boolean),
    Column("reported_message", Text),
)

# Sums over the inventories of an hour, by GPU product; their averages are telemetry. No foreign key: they outlive a cluster.
cluster_snapshots = Table(
    "cluster_snapshots",
    metadata,
    Column("cluster_id", String(64), primary_key=True),
    # The beginning of the hour.
    Column("hour", BigInteger, primary_key=True),
    # Empty: nodes without a GPU.
    Column("product", String(64), primary_key=True),
    # NULL: of the control plane's cluster.
    Column("organization_id", String(64)),
    Column("samples", BigInteger, nullable=False),
    Column("nodes", BigInteger, nullable=False),
    Column("gpus", BigInteger, nullable=False),
    Column("allocated_gpus", BigInteger, nullable=False),
    Column("gpu_memory_mib", BigInteger, nullable=False),
    Column("pods", BigInteger, nullable=False),
    Index("ix_cluster_snapshots_organization", "organization_id", "hour"),
    Index("ix_cluster_snapshots_hour", "hour"),
)
