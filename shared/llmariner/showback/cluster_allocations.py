"""Allocations of a cluster: what Kueue's Workloads hold, by the times that Kueue writes into them.

The state is read from the cluster and not from events, so events may be late, duplicate, false or lost: times are exact to
the second as long as one is read before its Workload is deleted; else an allocation ends when it was last seen.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from llmariner.platform.capacity.kueue_workloads import HeldWorkload, KueueWorkloads, workload_key
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.workloads import job_of

__all__ = ["ClusterAllocations"]


class ClusterAllocations:
    """Records the Workloads of a cluster. Methods block, are idempotent, and raise ClusterError.

    `cluster_id` empty: the platform's own. `jobs`: the ids of the jobs that run there, as the platform knows; None: what the
    cluster says is believed. A worker cluster is its organization's, and may say anything.
    """

    def __init__(
        self,
        store: Allocations,
        workloads: KueueWorkloads,
        cluster_id: str = "",
        jobs: Collection[str] | None = None,
    ) -> None:
        self._jobs = jobs
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
        """Record what all Workloads hold; end the allocations of those that are gone."""
        now = _now_ms()
        before = {row.id for row in self._store.open(self._cluster_id)}
        held = {id_ for each in self._workloads.all() if (id_ := self._record(each)) is not None}
        # Those that began meanwhile are in neither set.
        self._store.end_when_last_seen(self._cluster_id, before - held)
        self._store.see(self._cluster_id, now)

    def _record(self, found: HeldWorkload) -> str | None:
        if self._jobs is not None and (found.kind is not None or found.workload_id not in self._jobs):
            return None
        prefix = f"{self._cluster_id}/{found.key}/" if self._cluster_id else f"{found.key}/"
        if found.held_ms is None:
            if found.released_ms is not None:
                self._store.release(self._cluster_id, prefix, found.released_ms)
            return None
        id_ = f"{prefix}{found.held_ms}"
        kind, name = (found.kind, found.workload_id) if found.kind else job_of(found.workload_id)
        # On a worker cluster a job's row alone says whose it is, also once the row is gone.
        project_id = found.project_id if self._jobs is None else None
        began = found.held_ms
        held = Allocation(
            id_, kind, name, project_id, found.amounts, began, found.device, self._cluster_id, pods=found.pods
        )
        # An eviction that nobody saw ended by the new admission at the latest.
        self._store.hold(held, prefix)
        return id_


def _now_ms() -> int:
    return round(time.time() * 1000)
