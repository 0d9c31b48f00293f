"""Telemetry of clusters: sums over the inventories of each hour, by GPU product, whose averages are shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Float, cast, delete, distinct, func, literal, or_, select

from llmariner.clusters.cluster import Cluster
from llmariner.clusters.inventory import MAX_PRODUCTS, Inventory
from llmariner.clusters.tables import cluster_snapshots, clusters
from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database, WriteSession

__all__ = ["HOUR", "GroupBy", "SnapshotValue", "Snapshots", "record_snapshot"]

HOUR = 3600
_SUMS = ("samples", "nodes", "gpus", "allocated_gpus", "gpu_memory_mib", "pods")
_BATCH = 5000
# Of an answer: hours times groups, each of which has a value in every hour.
_MAX_VALUES = 100_000
# Of a cluster in an hour. An agent that names other ones each time fills no table.
_MAX_PRODUCTS_PER_HOUR = 2 * MAX_PRODUCTS


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


class Snapshots:
    """The telemetry of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def by_hour(
        self, organization_id: str, *, start: int, end: int, group_by: GroupBy, include_shared: bool
    ) -> tuple[dict[int, dict[str, SnapshotValue]], int]:
        """The values of each hour in [start, end) that has any, by grouping value; and the number of clusters in them.

        `include_shared`: with the control plane's own cluster. InvalidRequest for more values than an answer has.
        """
        c = cluster_snapshots.c
        own = c.organization_id == organization_id
        visible = or_(own, c.organization_id.is_(None)) if include_shared else own
        # The number of inventories of an hour is that of the product that was in most of them: one may come or go.
        samples = func.max(c.samples).over(partition_by=(c.cluster_id, c.hour)).label("total")
        wanted = (visible, c.hour >= start, c.hour < end)
        columns = (c.cluster_id, c.hour, c.product, *(c[name] for name in _SUMS[1:]), samples)
        each = select(*columns).where(*wanted).subquery().c
        groups = {GroupBy.CLUSTER: each.cluster_id, GroupBy.PRODUCT: each.product}
        group: ColumnElement[str] = groups.get(group_by, literal(""))
        averages = [func.sum(cast(each[name], Float) / each.total).label(name) for name in _SUMS[1:]]
        query = select(each.hour, group.label("grouping"), *averages).group_by(each.hour, group)
        hours: dict[int, dict[str, SnapshotValue]] = {}
        with self._database.read() as session:
            count = session.value(select(func.count(distinct(c.cluster_id))).where(*wanted))
            for row in session.rows(query.limit(_MAX_VALUES)):
                value = SnapshotValue(*(float(getattr(row, name)) for name in _SUMS[1:]))
                hours.setdefault(row.hour, {})[str(row.grouping)] = value
        _check_size(hours, (end - start) // HOUR)
        return hours, int(count or 0)

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
    c = cluster_snapshots.c
    known = select(c.product).where(c.cluster_id == cluster.id, c.hour == hour)
    names = {str(row.product) for row in session.rows(known)}
    names |= set(sorted(products.keys() - names)[: max(0, _MAX_PRODUCTS_PER_HOUR - len(names))])
    kept = [row for name, row in sorted(products.items()) if name in names]
    session.upsert(cluster_snapshots, kept, accumulate=_SUMS)


def _check_size(hours: Mapping[int, Mapping[str, SnapshotValue]], length: int) -> None:
    groups = {group for values in hours.values() for group in values}
    if len(groups) * length >= _MAX_VALUES:
        raise InvalidRequest(
            f"{len(groups)} groups in {length} hours are more values than an answer has: ask for fewer hours, or for no "
            "groups.",
            param="group_by",
            code="too_many_values",
        )
