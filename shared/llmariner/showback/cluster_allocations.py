"""Allocations of a cluster: what Kueue's Workloads hold, by the times that Kueue writes into them.

The state is read from the cluster and not from events, so events may be late, duplicate, false or lost: times are exact to
the second as long as one is read before its Workload is deleted; else an allocation ends when it was last seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from llmariner.platform.capacity.kueue_workloads import (
    HeldWorkload,
    KueueWorkloads,
    UnreadableWorkload,
    workload_key,
)
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.workloads import PlacedWorkload, job_of

__all__ = ["ClusterAllocations"]

_log = logging.getLogger(__name__)


class ClusterAllocations:
    """Records the Workloads of a cluster. Methods block, are idempotent, and raise ClusterError.

    `cluster_id` empty: the platform's own. `placed`: what the platform placed there, by its name; None: what the cluster
    says is believed. A worker cluster is its organization's, and may say anything.
    """

    def __init__(
        self,
        store: Allocations,
        workloads: KueueWorkloads,
        cluster_id: str = "",
        placed: Mapping[str, PlacedWorkload] | None = None,
    ) -> None:
        self._placed = placed
        self._store = store
        self._workloads = workloads
        self._cluster_id = cluster_id

    def reconcile(self, namespace: str, name: str) -> None:
        """Record what a Workload holds now. One that is gone, or was made again, has given back what it held."""
        now = _now_ms()
        found = self._workloads.find(namespace, name)
        kept = None if found is None else self._record(found)
        self._store.end_others(self._cluster_id, workload_key(namespace, name), kept, now)

    def reconcile_all(self) -> None:
        """Record what all Workloads hold; end the allocations of those that are gone, or can't be read any more."""
        now = _now_ms()
        before = {row.id for row in self._store.open(self._cluster_id)}
        held, unreadable = set(), []
        for each in self._workloads.all():
            if isinstance(each, UnreadableWorkload):
                unreadable.append(each)
            elif (id_ := self._record(each)) is not None:
                held.add(id_)
        if unreadable:
            where, first = self._cluster_id or "this cluster", unreadable[0]
            text = "%d Workloads of %s can't be read, and what they hold is not recorded; the first, %s: %r"
            _log.warning(text, len(unreadable), where, first.name, first.error)
        # Those that began meanwhile are in neither set.
        self._store.end_when_last_seen(self._cluster_id, before - held)
        self._store.see(self._cluster_id, now)

    def _record(self, found: HeldWorkload) -> str | None:
        if (owner := self._owner(found)) is None:
            return None
        prefix = f"{self._cluster_id}/{found.key}/" if self._cluster_id else f"{found.key}/"
        if found.held_ms is None:
            if found.released_ms is not None:
                ended = found.released_ms if self._placed is None else min(found.released_ms, _now_ms())
                self._store.release(self._cluster_id, prefix, ended)
            return None
        id_ = f"{prefix}{found.held_ms}"
        began = found.held_ms if self._placed is None else min(max(owner.since_ms, found.held_ms), _now_ms())
        held = Allocation(
            id_,
            owner.kind,
            owner.workload_id,
            owner.project_id,
            found.amounts,
            began,
            found.device,
            self._cluster_id,
            pods=found.pods,
        )
        # An eviction that nobody saw ended by the new admission at the latest.
        self._store.hold(held, prefix)
        return id_

    def _owner(self, found: HeldWorkload) -> PlacedWorkload | None:
        """Whose a Workload is. On a worker cluster the platform's rows alone say so; None: it placed no such one there."""
        if self._placed is None:
            kind, name = (found.kind, found.workload_id) if found.kind else job_of(found.workload_id)
            return PlacedWorkload(kind, name, 0, found.project_id)
        placed = self._placed.get(found.service if found.kind else found.workload_id)
        return placed if placed is not None and (placed.kind == "model") == (found.kind == "model") else None


def _now_ms() -> int:
    return round(time.time() * 1000)
