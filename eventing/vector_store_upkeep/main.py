"""Periodic maintenance of vector stores.

Ends expired stores; continues files that waited for a limit, a budget or a model, or whose event was lost; deletes the rows
of what was removed; indexes files again where the index has other chunks than the rows say.
"""

import logging
import secrets

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.vector_stores.ingest.claims import continue_later
from llmariner.vector_stores.ingest.rebuild import repair_some
from llmariner.vector_stores.ingest.removal import purge

_log = logging.getLogger(__name__)
# As long as a delivery may take.
_LEASE_SECONDS = 600.0


def consume(context: Context, _event: Event) -> None:
    """Idempotent. A lease in the database limits it to one process at a time; further calls return at once."""
    lease = WorkLease(context.database, "vector_store_upkeep", f"upkeep_{secrets.token_hex(8)}")
    if lease.acquire(_LEASE_SECONDS) is None:
        return
    try:
        context.vector_stores.expire()
        continue_later(context.database)
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
        purge(context.database, index)
        repair_some(context.database, index)
    except VectorIndexUnavailable as error:
        _log.warning("the index of vector stores does not answer: %s", error)


# Events of the cluster's PingSource are not in the outbox; their data is ignored.
handle = event_function(consume, from_outbox=False)
