"""How far what was held was used, by hour: measured by exporters, joined to allocations by the names of pods.

Allocations are exact; use is sampled, so it is a share of what was measured and never a number of seconds by itself. What
was not measured is not shown as idle.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Row, delete, func, select

from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.prometheus import Prometheus
from llmariner.showback.exporters import HourOfUse, NodeUse, Pod, PodUse, read_hour
from llmariner.showback.prices import Amounts
from llmariner.showback.tables import allocations, gpu_node_hours, utilization_hours

__all__ = [
    "Measured",
    "Use",
    "WorkloadKey",
    "gpu_use_by_node",
    "measured_use",
    "prune_utilization",
    "record_utilization",
    "store_hour",
]

HOUR = 3600
_CATCH_UP_HOURS = 24
_BATCH = 5000
_MAX_VALUES = 100_000
_ID_LENGTH = 64
_MARKER = {"cluster_id": "", "kind": "", "workload_id": "", "organization_id": ""}
"""The row of an hour that says that it was read; of no workload."""

_a, _u = allocations.c, utilization_hours.c


class Measured(NamedTuple):
    """Sums of samples of a workload's GPUs, and its core-seconds."""

    samples: float
    busy: float
    idle: float
    core_seconds: float | None


class WorkloadKey(NamedTuple):
    """A workload on a cluster."""

    cluster_id: str
    kind: str
    workload_id: str


@dataclass
class Use:
    """What was measured of what was held, in milliseconds of GPUs and of thousandths of a core."""

    gpu_measured: float = 0.0
    gpu_busy: float = 0.0
    gpu_idle: float = 0.0
    core_measured: float = 0.0
    core_busy: float = 0.0

    def add(self, part: Amounts, measured: Measured, held: Amounts) -> None:
        """Add a part of what a workload held in the span that was measured; `held`: all of it."""
        if measured.samples > 0:
            self.gpu_measured += part.gpu_ms
            self.gpu_busy += part.gpu_ms * measured.busy / measured.samples
            self.gpu_idle += part.gpu_ms * measured.idle / measured.samples
        if measured.core_seconds is not None and held.millicore_ms:
            self.core_measured += part.millicore_ms
            self.core_busy += part.millicore_ms * measured.core_seconds * 1e6 / held.millicore_ms


def measured_use(
    session: ReadSession, organization_id: str | None, start: int, end: int, width: int
) -> dict[tuple[int, WorkloadKey], Measured]:
    """What was measured of an organization's workloads and of those of all, by bucket; None: of all organizations."""
    bucket = ((_u.hour - start) // width).label("bucket")
    sums = [func.sum(_u[name]).label(name) for name in Measured._fields]
    query = select(bucket, _u.cluster_id, _u.kind, _u.workload_id, *sums).where(
        _u.hour >= start, _u.hour < end, _u.kind != ""
    )
    if organization_id is not None:
        query = query.where(_u.organization_id.in_((organization_id, "")))
    rows = session.rows(query.group_by(bucket, _u.cluster_id, _u.kind, _u.workload_id))
    return {
        (start + int(row.bucket) * width, WorkloadKey(row.cluster_id, row.kind, row.workload_id)): Measured(
            float(row.samples),
            float(row.busy),
            float(row.idle),
            None if row.core_seconds is None else float(row.core_seconds),
        )
        for row in rows
    }


def gpu_use_by_node(
    database: Database, cluster_ids: Collection[str], start: int, end: int
) -> dict[int, dict[tuple[str, str], NodeUse]]:
    """The use of GPUs on nodes of clusters ('': the platform's own) in [start, end), by hour, cluster and name.

    InvalidRequest for more values than an answer has: each node has one in every hour.
    """
    c = gpu_node_hours.c
    query = select(gpu_node_hours).where(c.hour >= start, c.hour < end, c.cluster_id.in_(cluster_ids))
    hours: dict[int, dict[tuple[str, str], NodeUse]] = {}
    with database.read() as session:
        for row in session.rows(query.limit(_MAX_VALUES + 1)):
            use = NodeUse(row.max_gpus, row.avg_gpus, row.max_memory_mib, row.avg_memory_mib)
            hours.setdefault(row.hour, {})[row.cluster_id, row.node] = use
    count = len({node for of_hour in hours.values() for node in of_hour})
    if count * ((end - start) // HOUR) > _MAX_VALUES:
        raise InvalidRequest(
            f"{count} nodes in so many hours are more values than an answer has: ask for fewer hours.",
            param="filter.start_timestamp",
            code="too_many_values",
        )
    return hours


def record_utilization(
    database: Database,
    prometheus: Prometheus,
    namespaces: Collection[str],
    *,
    seconds: float,
    step_seconds: float = 60.0,
) -> int:
    """Read the hours that are not complete, the present one included; returns how many. Idempotent. Raises Unavailable.

    `namespaces`: where pods are the platform's: one of another namespace may have any name. `seconds`: how long it may
    take, after which the next call continues. What is older than a day is not made up for.
    """
    deadline, count, now = time.monotonic() + seconds, 0, time.time()
    for hour in _due(database, now):
        end = min(hour + HOUR, now)
        if end - hour < step_seconds:
            continue
        found = read_hour(prometheus, hour, end, step_seconds=step_seconds)
        store_hour(database, hour, found, namespaces)
        count += 1
        if time.monotonic() > deadline:
            break
    return count


def store_hour(database: Database, hour: int, found: HourOfUse, namespaces: Collection[str]) -> None:
    """Replace what is stored of an hour."""

    def write(session: WriteSession) -> None:
        rows = list(_workload_rows(session, hour, found, namespaces))
        marker = {**_MARKER, "hour": hour, "samples": 0.0, "busy": 0.0, "idle": 0.0, "core_seconds": None}
        session.upsert(utilization_hours, [*rows, marker])
        nodes = [
            {"hour": hour, "cluster_id": cluster, "node": node, **vars(use)}
            for (cluster, node), use in sorted(found.nodes.items())
            if len(cluster) <= _ID_LENGTH
        ]
        if nodes:
            session.upsert(gpu_node_hours, nodes)

    database.transact(write)


def prune_utilization(database: Database, *, older_than: float) -> None:
    """Delete hours that ended more than `older_than` seconds ago, some thousands of rows at a time."""
    for table in (utilization_hours, gpu_node_hours):
        with database.write() as session:
            old = select(table.c.hour).where(table.c.hour < time.time() - older_than)
            hours = [row.hour for row in session.rows(old.order_by(table.c.hour).limit(_BATCH))]
            if hours:
                session.run(delete(table).where(table.c.hour <= max(hours)))


def _due(database: Database, now: float) -> range:
    """The hours from the last one that was read, which may not have been over then."""
    current = int(now) // HOUR * HOUR
    with database.read() as session:
        last = session.value(select(func.max(_u.hour)).where(_u.kind == "", _u.hour <= current))
    first = current - HOUR if last is None else max(int(last), current - _CATCH_UP_HOURS * HOUR)
    return range(first, current + 1, HOUR)


def _workload_rows(
    session: ReadSession, hour: int, found: HourOfUse, namespaces: Collection[str]
) -> Iterator[dict[str, Any]]:
    """A row per workload of which something was measured."""
    held = (_a.pods != "") & (_a.ended_ms > hour * 1000) & (_a.started_ms < (hour + HOUR) * 1000)
    columns = (_a.cluster_id, _a.pods, _a.kind, _a.workload_id, _a.organization_id)
    owners = {(row.cluster_id, row.pods): row for row in session.rows(select(*columns).where(held).distinct())}
    uses: dict[WorkloadKey, PodUse] = {}
    whose: dict[WorkloadKey, str] = {}
    for pod, use in found.pods.items():
        row = _owner(owners, pod) if pod.namespace in namespaces else None
        if row is None:
            continue
        key = WorkloadKey(row.cluster_id, row.kind, row.workload_id)
        whose[key] = row.organization_id
        total = uses.setdefault(key, PodUse())
        for name in ("samples", "busy", "idle"):
            setattr(total, name, getattr(total, name) + getattr(use, name))
        if use.core_seconds is not None:
            total.core_seconds = (total.core_seconds or 0.0) + use.core_seconds
    for key, use in sorted(uses.items()):
        yield {"hour": hour, **key._asdict(), "organization_id": whose[key], **vars(use)}


def _owner(owners: Mapping[tuple[str, str], Row[Any]], pod: Pod) -> Row[Any] | None:
    """The allocation of a pod: of its name, or of a Job whose name and a dash it begins with."""
    for name in (pod.name, *_beginnings(pod.name)):
        if (row := owners.get((pod.cluster_id, name))) is not None:
            return row
    return None


def _beginnings(name: str) -> Sequence[str]:
    """What a name begins with, up to each dash in it, that of the longest first."""
    return [name[: at + 1] for at in range(len(name) - 1, -1, -1) if name[at] == "-"]
