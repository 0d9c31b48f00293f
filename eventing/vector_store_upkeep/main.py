"""Periodic maintenance of vector stores.

Ends expired stores; continues files that waited for a limit, a budget or a model, and files and rebuilds whose event was
lost; deletes the rows of what was removed; indexes files again where the index has other chunks than the rows say.
"""

import logging
import secrets
import time

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.vector_stores.ingest.claims import continue_later
from llmariner.vector_stores.ingest.rebuild import continue_rebuilds
from llmariner.vector_stores.ingest.removal import purge
from llmariner.vector_stores.ingest.repair import repair_some

_log = logging.getLogger(__name__)
# As long as a delivery may take.
_LEASE_SECONDS = 600.0
# How long each step may take; the next sweep continues it.
_STEP_SECONDS = 12.0


def consume(context: Context, _event: Event) -> None:
    """Idempotent. A lease in the database limits it to one process at a time; further calls return at once."""
    lease = WorkLease(context.database, "vector_store_upkeep", f"upkeep_{secrets.token_hex(8)}")
    if lease.acquire(_LEASE_SECONDS) is None:
        return
    try:
        context.vector_stores.expire()
        continue_later(context.database, until=_step_end())
        continue_rebuilds(context.database, until=_step_end())
        _maintain_index(context)
    finally:
        lease.pause(0.0)


def _maintain_index(context: Context) -> None:
    try:
        index = context.vectors
    except ValueError as error:  # an installation without vector stores
        _log.info("no index of vector stores is maintained: %s", error)
        return
    try:
        purge(context.database, index, until=_step_end())
        repair_some(context.database, index, until=_step_end())
    except VectorIndexUnavailable as error:
        _log.warning("the index of vector stores does not answer: %s", error)


def _step_end() -> float:
    return time.monotonic() + _STEP_SECONDS


# Events of the cluster's PingSource are not in the outbox; their data is ignored.
handle = event_function(consume, from_outbox=False)
