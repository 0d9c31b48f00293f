"""Allocations for tests, and their events for tests of all event types."""

from __future__ import annotations

import time

from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.installation import request_check
from llmariner.tenancy.keys.store import KeyOwner

__all__ = ["DAY", "GIB", "NOON", "allocation", "emit_allocation_events"]

DAY = 86400
NOON = time.time() // DAY * DAY + DAY / 2
GIB = 2**30


def emit_allocation_events(database: Database, owner: KeyOwner) -> None:
    """Begin and end an allocation."""
    store = Allocations(database)
    amounts = {"cpu": 2000, "memory": 2**30}
    store.begin(Allocation("batch_job/bj-1/1", "batch_job", "bj-1", owner.project_id, amounts, 1_795_917_798_250))
    store.end("batch_job/bj-1/1", 1_795_917_901_500)
    request_check({"LLMARINER_QUEUE": "cpu"}, database)


def allocation(owner: KeyOwner, id_: str, at: float, **changes: object) -> Allocation:
    """An allocation of two GPUs that begins at that time."""
    fields: dict[str, object] = {
        "kind": "batch_job",
        "workload_id": "bj-1",
        "project_id": owner.project_id,
        "amounts": {"gpu": 2, "cpu": 1500, "memory": 3 * GIB},
        "device": "a100",
    }
    return Allocation(id_, started_ms=round(at * 1000), **{**fields, **changes})  # type: ignore[arg-type]
