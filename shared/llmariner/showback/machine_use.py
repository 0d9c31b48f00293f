"""How far one machine is used: the processor time of its workloads, and its GPUs where an exporter of theirs runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from llmariner.platform.database import Database, WriteSession
from llmariner.showback.tables import gpu_node_hours, utilization_hours
from llmariner.showback.utilization import HOUR
from llmariner.showback.workloads import owner_of

__all__ = ["Workload", "add_core_seconds", "put_gpu_use"]


class Workload(NamedTuple):
    """What used the time. `project_id` None: of no project."""

    kind: str
    id: str
    project_id: str | None


def add_core_seconds(database: Database, used: Mapping[Workload, float], start: float, end: float) -> None:
    """Add what workloads used between two times, to each hour by its part of that span."""

    def write(session: WriteSession) -> None:
        rows = []
        for (kind, id_, project_id), seconds in sorted(used.items(), key=lambda each: each[0][:2]):
            organization_id = owner_of(session, kind, id_, project_id).organization_id
            key = {"cluster_id": "", "kind": kind, "workload_id": id_, "organization_id": organization_id}
            for hour, part in _parts(start, end):
                row = {**key, "hour": hour, "samples": 0.0, "busy": 0.0, "idle": 0.0, "core_seconds": seconds * part}
                rows.append(row)
        session.upsert(utilization_hours, rows, accumulate=("samples", "busy", "idle", "core_seconds"))

    if used:
        database.transact(write)


def put_gpu_use(database: Database, hour: int, node: str, values: Mapping[str, float]) -> None:
    """Replace what is stored of the GPUs of this machine in an hour: the columns of `gpu_node_hours`."""
    row = {"hour": hour, "cluster_id": "", "node": node, **values}
    database.transact(lambda session: session.upsert(gpu_node_hours, [row]))


def _parts(start: float, end: float) -> Iterator[tuple[int, float]]:
    """The hours of a span, each with its share of it."""
    hour = int(start) // HOUR * HOUR
    if end - start <= 0 or end - start > HOUR:  # a clock that was set
        yield int(end) // HOUR * HOUR, 1.0
        return
    while hour < end:
        yield hour, (min(end, hour + HOUR) - max(start, hour)) / (end - start)
        hour += HOUR
