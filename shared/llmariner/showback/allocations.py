"""The store of allocations: what workloads hold, from their admission to their end.

Nothing is sampled: a row is written when a workload gets its share of the machine or cluster, and closed when it gives it
back. Where nobody saw the end, because the platform was killed with the workload, the end is when it was last seen.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update

from llmariner.platform.database import Database, WriteSession
from llmariner.platform.events import outbox
from llmariner.showback.events import ENDED, STARTED
from llmariner.showback.tables import NOT_ENDED, allocations
from llmariner.showback.workloads import owner_of

__all__ = ["Allocation", "Allocations"]

_MIB = 2**20
_MOST = {"gpu": 2**20, "cpu": 2**36, "memory": 2**36 * _MIB}
"""A day in milliseconds of that fits into 63 bits."""
_c = allocations.c


@dataclass(frozen=True)
class Allocation:
    """What a workload holds: `amounts` are GPUs, thousandths of a core, bytes. `id`: of this allocation of the workload.

    `project_id` None: of no project, or to be found by the workload's row. `device`: the kind of GPU.
    `pods`: the name of its pod, or with a dash at the end what names of its pods begin with.
    """

    id: str
    kind: str
    workload_id: str
    project_id: str | None
    amounts: Mapping[str, int]
    started_ms: int
    device: str = ""
    cluster_id: str = ""
    pods: str = ""


class Allocations:
    """The allocations of one installation. All calls are idempotent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, allocation: Allocation) -> None:
        """Record that a workload got what it needs. An allocation that is known stays as it is."""

        def insert(session: WriteSession) -> None:
            row = _row(session, allocation)
            if session.insert_if_absent(allocations, [row]):
                _emit(session, STARTED, row)

        self._database.transact(insert)

    def hold(self, allocation: Allocation, prefix: str) -> None:
        """Record that this allocation lasts, the only one whose id begins with `prefix`: those before ended by its start.

        An end that is recorded was a mistake, such as after a list that lacked it, unless a later one has begun.
        """
        now_ms = round(time.time() * 1000)
        mine = (_c.cluster_id == allocation.cluster_id) & _c.id.startswith(prefix, autoescape=True)
        later = select(_c.id).where(mine, _c.started_ms > allocation.started_ms).limit(1)
        ended = (_c.id == allocation.id) & (_c.ended_ms != NOT_ENDED)

        def write(session: WriteSession) -> None:
            row = _row(session, allocation)
            earlier = mine & (_c.id != allocation.id) & (_c.started_ms <= allocation.started_ms)
            _close(session, earlier, allocation.started_ms)
            known = not session.insert_if_absent(allocations, [row])
            if known and session.first(later) is None:
                known = not session.run(update(allocations).where(ended).values(ended_ms=NOT_ENDED, settled=False))
            if not known:
                _emit(session, STARTED, row)
            lasts = (_c.id == allocation.id) & (_c.ended_ms == NOT_ENDED) & (_c.seen_ms < now_ms)
            session.run(update(allocations).where(lasts).values(seen_ms=now_ms))

        self._database.transact(write)

    def end(self, allocation_id: str, at_ms: int) -> None:
        """Record that a workload gave back what it had. Only the first end counts; not before the start."""
        self._end_where(_c.id == allocation_id, at_ms)

    def end_others(self, cluster_id: str, prefix: str, kept: str | None, at_ms: int) -> None:
        """End the open allocations whose ids begin with `prefix`, but for the one with the id `kept`."""
        other = _c.id != kept if kept is not None else _c.id.is_not(None)
        self._end_where((_c.cluster_id == cluster_id) & _c.id.startswith(prefix, autoescape=True) & other, at_ms)

    def release(self, cluster_id: str, prefix: str, at_ms: int) -> None:
        """End the open allocations whose ids begin with `prefix` and that began by then."""
        mine = _c.id.startswith(prefix, autoescape=True) & (_c.started_ms <= at_ms)
        self._end_where((_c.cluster_id == cluster_id) & mine, at_ms)

    def end_when_last_seen(self, cluster_id: str, ids: Collection[str] | None = None) -> None:
        """End open allocations of a cluster, those of `ids` or else all, each when it was last seen."""
        for row in self.open(cluster_id):
            if ids is None or row.id in ids:
                self._end_where(_c.id == row.id, None)

    def end_unseen(self, cluster_id: str, before_ms: int) -> None:
        """As `end_when_last_seen`, those that nobody has seen since then."""
        self.end_when_last_seen(cluster_id, {row.id for row in self.open(cluster_id) if row.seen_ms < before_ms})

    def see(self, cluster_id: str, at_ms: int) -> None:
        """Record that the open allocations of a cluster still last."""
        query = update(allocations).where(_c.ended_ms == NOT_ENDED, _c.cluster_id == cluster_id, _c.seen_ms < at_ms)
        self._database.transact(lambda session: session.run(query.values(seen_ms=at_ms)))

    def open(self, cluster_id: str) -> list[Row[Any]]:
        """The rows of allocations of a cluster that have not ended; as many as run."""
        query = select(allocations).where(_c.ended_ms == NOT_ENDED, _c.cluster_id == cluster_id)
        with self._database.read() as session:
            return list(session.rows(query.order_by(_c.id)))

    def _end_where(self, condition: ColumnElement[bool], at_ms: int | None) -> None:
        self._database.transact(lambda session: _close(session, condition, at_ms))


def _close(session: WriteSession, condition: ColumnElement[bool], at_ms: int | None) -> None:
    """End the open allocations of a condition then; None: when each was last seen."""
    found = select(allocations).where(condition, _c.ended_ms == NOT_ENDED).order_by(_c.id).with_for_update()
    for row in session.rows(found):
        end = max(row.started_ms, row.seen_ms if at_ms is None else at_ms)
        session.run(update(allocations).where(_c.id == row.id).values(ended_ms=end, seen_ms=end))
        _emit(session, ENDED, {**row._mapping, "ended_ms": end})


def _row(session: WriteSession, new: Allocation) -> dict[str, Any]:
    owner = owner_of(session, new.kind, new.workload_id, new.project_id)
    amounts = {name: min(max(0, new.amounts.get(name, 0)), most) for name, most in _MOST.items()}
    return {
        "id": new.id,
        "kind": new.kind,
        "workload_id": new.workload_id,
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "cluster_id": new.cluster_id,
        "device": new.device if amounts["gpu"] else "",
        "gpus": amounts["gpu"],
        "millicores": amounts["cpu"],
        "memory_mib": -(-amounts["memory"] // _MIB),
        "started_ms": new.started_ms,
        "seen_ms": new.started_ms,
        "ended_ms": NOT_ENDED,
        "charged_ms": new.started_ms,
        "settled": False,
        "pods": new.pods[:256],
    }


def _emit(session: WriteSession, type_: str, row: Mapping[str, Any]) -> None:
    ended = row["ended_ms"]
    data = {
        "id": row["id"],
        "kind": row["kind"],
        "workload_id": row["workload_id"],
        "gpu_count": row["gpus"],
        "device": row["device"],
        "millicores": row["millicores"],
        "memory_mib": row["memory_mib"],
        "started_at": row["started_ms"] / 1000,
        "ended_at": None if ended == NOT_ENDED else ended / 1000,
        "project_id": row["project_id"] or None,
        "organization_id": row["organization_id"] or None,
    }
    outbox.add(session, type_, f"allocations/{row['id']}", data)
