"""The events of allocations, for tests of all event types."""

from __future__ import annotations

from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.installation import request_check
from llmariner.tenancy.keys.store import KeyOwner

__all__ = ["emit_allocation_events"]


def emit_allocation_events(database: Database, owner: KeyOwner) -> None:
    """Begin and end an allocation."""
    store = Allocations(database)
    amounts = {"cpu": 2000, "memory": 2**30}
    store.begin(Allocation("batch_job/bj-1/1", "batch_job", "bj-1", owner.project_id, amounts, 1_795_917_798_250))
    store.end("batch_job/bj-1/1", 1_795_917_901_500)
    request_check({"LLMARINER_QUEUE": "cpu"}, database)
