"""Telemetry of clusters: sums over the inventories of each hour, by GPU product, whose averages are shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, or_, select

from llmariner.clusters.cluster import Cluster
from llmariner.clusters.inventory import Inventory
from llmariner.clusters.tables import cluster_snapshots, clusters
from llmariner.platform.database import Database, WriteSession

__all__ = ["HOUR", "GroupBy", "SnapshotValue", "Snapshots", "record_snapshot"]

HOUR = 3600
_SUMS = ("samples", "nodes", "gpus", "allocated_gpus", "gpu_memory_mib", "pods")
_BATCH = 5000


class GroupBy(StrEnum):
    """What the values of an hour are grouped by."""

    NOTHING = "GROUP_BY_UNSPECIFIED"
    CLUSTER = "GROUP_BY_CLUSTER"
    PRODUCT = "GROUP_BY_PRODUCT"


@dataclass(frozen=True)
class SnapshotValue:
    """The averages of an hour over the inventories of that hour, summed over clusters."""

    nodes: float = 0.0
    gpus: float = 0.0
    allocated_gpus: float = 0.0
    gpu_memory_mib: float = 0.0
    pods: float = 0.0

    def __add__(self, other: SnapshotValue) -> SnapshotValue:
        """The sum of each field."""
        return SnapshotValue(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )


class Snapshots:
    """The telemetry of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def by_hour(
        self, organization_id: str, *, start: int, end: int, group_by: GroupBy, include_shared: bool
    ) -> tuple[dict[int, dict[str, SnapshotValue]], int]:
        """The values of each hour in [start, end) that has any, by grouping value; and the number of clusters in them.

        `include_shared`: with the control plane's own cluster.
        """
        c = cluster_snapshots.c
        own = c.organization_id == organization_id
        visible = or_(own, c.organization_id.is_(None)) if include_shared else own
        # The number of inventories of an hour is that of the product that was in most of them: one may come or go.
        samples = func.max(c.samples).over(partition_by=(c.cluster_id, c.hour)).label("total")
        columns = (c.cluster_id, c.hour, c.product, *(c[name] for name in _SUMS[1:]), samples)
        query = select(*columns).where(visible, c.hour >= start, c.hour < end)
        hours: dict[int, dict[str, SnapshotValue]] = {}
        seen = set()
        with self._database.read() as session:
            for row in session.rows(query):
                seen.add(row.cluster_id)
                group = _group(row, group_by)
                value = SnapshotValue(*(getattr(row, name) / row.total for name in _SUMS[1:]))
                groups = hours.setdefault(row.hour, {})
                groups[group] = groups.get(group, SnapshotValue()) + value
        return hours, len(seen)

    def names(self, organization_id: str) -> dict[str, str]:
        """The names of the clusters that exist, by id."""
        visible = or_(clusters.c.organization_id == organization_id, clusters.c.organization_id.is_(None))
        with self._database.read() as session:
            return {row.id: row.name for row in session.rows(select(clusters.c.id, clusters.c.name).where(visible))}

    def prune(self, *, older_than: float) -> int:
        """Delete hours that ended more than `older_than` seconds ago, some thousands at a time; returns how many."""
        c = cluster_snapshots.c
        old = select(c.hour).where(c.hour < time.time() - older_than).order_by(c.hour).limit(_BATCH)
        with self._database.write() as session:
            hours = {row.hour for row in session.rows(old)}
            return session.run(delete(cluster_snapshots).where(c.hour <= max(hours))) if hours else 0


def record_snapshot(session: WriteSession, cluster: Cluster, inventory: Inventory, now: float) -> None:
    """Add an inventory to the sums of its hour."""
    hour = int(now) // HOUR * HOUR
    place = {"cluster_id": cluster.id, "hour": hour, "organization_id": cluster.organization_id}
    products: dict[str, dict[str, Any]] = {}
    for each in inventory.products:
        row = products.setdefault(
            each.product, {**place, "product": each.product, **dict.fromkeys(_SUMS, 0), "samples": 1}
        )
        for name in _SUMS[1:]:
            row[name] += getattr(each, name)
    session.upsert(cluster_snapshots, sorted(products.values(), key=_product), accumulate=_SUMS)


def _product(row: Mapping[str, Any]) -> str:
    return str(row["product"])


def _group(row: Any, group_by: GroupBy) -> str:
    return str({GroupBy.NOTHING: "", GroupBy.CLUSTER: row.cluster_id, GroupBy.PRODUCT: row.product}[group_by])
