"""Tables of showback. Times are milliseconds since 1970, so that sums are exact; money is nano-dollars."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, false, text

from llmariner.platform.database import metadata

__all__ = [
    "NOT_ENDED",
    "allocations",
    "compute_charges",
    "compute_prices",
    "gpu_node_hours",
    "utilization_hours",
]

NOT_ENDED = 2**53
"""The end of an allocation that has not ended: later than every other, so that one comparison serves both."""

# What a workload held, from when to when. A workload that is started again has another one.
allocations = Table(
    "allocations",
    metadata,
    Column("id", String(400), primary_key=True),
    # model, batch_job, fine_tuning_job, notebook.
    Column("kind", String(16), nullable=False),
    Column("workload_id", String(256), nullable=False),
    # Empty: a model that all projects share.
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    # Empty: nobody in particular, as for models.
    Column("user_id", String(64), nullable=False),
    # Empty: where the platform runs itself.
    Column("cluster_id", String(64), nullable=False, server_default=text("''")),
    # The kind of accelerator: Kueue's name of its flavor. Empty: none.
    Column("device", String(128), nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("millicores", BigInteger, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    # When it was last known to last: where nobody saw its end, that is its end.
    Column("seen_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    # Until when it is charged to budgets, and whether that is all.
    Column("charged_ms", BigInteger, nullable=False),
    Column("settled", Boolean, nullable=False, server_default=false()),
    # The name of its pod, or with a dash at the end what names of its pods begin with. Empty: no pods, or not known.
    Column("pods", String(256), nullable=False, server_default=text("''")),
    Index("ix_allocations_organization", "organization_id", "ended_ms", "started_ms"),
    Index("ix_allocations_started", "organization_id", "started_ms", "id"),
    Index("ix_allocations_time", "ended_ms", "started_ms"),
    Index("ix_allocations_workload", "kind", "workload_id"),
    Index("ix_allocations_unsettled", "settled", "id"),
)

# What an hour of a GPU, a core and a GiB of memory costs on a kind of device, with its validity (Unix seconds). '*': on all
# without a price of their own; '': where there is no GPU. Rows never change except for `valid_to`.
compute_prices = Table(
    "compute_prices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("device", String(128), nullable=False),
    Column("valid_from", Float, nullable=False),
    Column("valid_to", Float),
    Column("gpu_hour", BigInteger, nullable=False),
    Column("core_hour", BigInteger, nullable=False),
    Column("gib_hour", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_compute_prices_device", "device", "valid_from"),
)

# What budgets were charged for allocations, by day (UTC, Unix seconds) of the charge.
compute_charges = Table(
    "compute_charges",
    metadata,
    Column("organization_id", String(64), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", String(64), primary_key=True),
    Column("user_id", String(64), primary_key=True),
    Column("cost", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What exporters measured of a workload in an hour (Unix seconds). Floats: sums of samples, of which shares are shown.
utilization_hours = Table(
    "utilization_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("cluster_id", String(64), primary_key=True),
    # Empty: no workload; the row says that the hour was read.
    Column("kind", String(16), primary_key=True),
    Column("workload_id", String(256), primary_key=True),
    # Empty: a model that all projects share.
    Column("organization_id", String(64), nullable=False),
    # Of all GPUs together; their sum as shares of a GPU; how many of them were idle.
    Column("samples", Float, nullable=False),
    Column("busy", Float, nullable=False),
    Column("idle", Float, nullable=False),
    # NULL: not measured.
    Column("core_seconds", Float),
    Index("ix_utilization_hours_organization", "organization_id", "hour"),
)

# What exporters measured of a node's GPUs in an hour: the sums over the node.
gpu_node_hours = Table(
    "gpu_node_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("cluster_id", String(64), primary_key=True),
    Column("node", String(253), primary_key=True),
    Column("max_gpus", Float, nullable=False),
    Column("avg_gpus", Float, nullable=False),
    Column("max_memory_mib", Float, nullable=False),
    Column("avg_memory_mib", Float, nullable=False),
)
