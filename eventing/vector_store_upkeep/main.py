"""Periodic maintenance of vector stores.

Ends expired stores; deletes those of projects that were archived long ago; continues files that waited for a limit, a
budget or a model, and files, attributes and rebuilds whose event was lost; deletes the rows of what was removed;
indexes files again where the index has other chunks than the rows say.
"""

import logging
import secrets
import time

from llmariner.context import Context
from llmariner.file_settings import FileSettings
from llmariner.http.entrypoint import event_function
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.vectors import VectorIndex, VectorIndexUnavailable
from llmariner.vector_stores.ingest.attributes_step import continue_attributes
from llmariner.vector_stores.ingest.claims import continue_later
from llmariner.vector_stores.ingest.rebuild import continue_rebuilds
from llmariner.vector_stores.ingest.removal import purge
from llmariner.vector_stores.ingest.repair import repair_some

_log = logging.getLogger(__name__)
# Longer than a step takes, and the most that a killed process delays the next.
_LEASE_SECONDS = 120.0
# How long each step may take; the next sweep continues it.
_STEP_SECONDS = 12.0


def consume(context: Context, _event: Event) -> None:
    """Idempotent. A lease in the database limits it to one process at a time; further calls return at once."""
    lease = WorkLease(context.database, "vector_store_upkeep", f"upkeep_{secrets.token_hex(8)}")
    try:
        for step in (
            _expire,
            _delete_orphans,
            _continue_files,
            _continue_attributes,
            _continue_rebuilds,
            _purge,
            _repair,
        ):
            if lease.acquire(_LEASE_SECONDS) is None:
                return
            step(context, time.monotonic() + _STEP_SECONDS)
    except VectorIndexUnavailable as error:
        _log.warning("the index of vector stores does not answer: %s", error)
    finally:
        lease.pause(0.0)


def _expire(context: Context, _until: float) -> None:
    context.vector_stores.expire(seconds=_STEP_SECONDS)


def _delete_orphans(context: Context, _until: float) -> None:
    days = FileSettings.load(context.env).archived_days
    context.vector_stores.delete_orphans(archived_days=days, seconds=_STEP_SECONDS)


def _continue_files(context: Context, until: float) -> None:
    continue_later(context.database, until=until)


def _continue_attributes(context: Context, until: float) -> None:
    continue_attributes(context.database, until=until)


def _continue_rebuilds(context: Context, until: float) -> None:
    continue_rebuilds(context.database, until=until)


def _purge(context: Context, until: float) -> None:
    if (index := _index_of(context)) is not None:
        purge(context.database, index, until=until)


def _repair(context: Context, until: float) -> None:
    if (index := _index_of(context)) is not None:
        repair_some(context.database, index, until=until)


def _index_of(context: Context) -> VectorIndex | None:
    try:
        return context.vectors
    except ValueError as error:  # an installation without vector stores
        _log.info("no index of vector stores is maintained: %s", error)
        return None


# Events of the cluster's PingSource are not in the outbox; their data is ignored.
handle = event_function(consume, from_outbox=False)
