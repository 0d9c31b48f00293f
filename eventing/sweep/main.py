"""What must happen without anybody asking.

Closes ledger entries whose process is gone and drops old ones, whose sums stay; carries events that were left behind to
the Broker, forgets old ones; has idle models put to sleep.
"""

import asyncio
import logging
import secrets

from llmariner.context import Context
from llmariner.errors import PlatformError
from llmariner.http.entrypoint import event_function
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event
from llmariner.settings import UsageSettings

_log = logging.getLogger(__name__)
# A request under way gives a sign of life every 15 s.
_LOST_AFTER_SECONDS = 60.0
# Longer than a sweep takes; one that is killed holds up the next no longer.
_LEASE_SECONDS = 120.0
# Long enough for a consumer that was down over a weekend, and for people who ask what happened.
_RETENTION_SECONDS = 7 * 86400.0


async def consume(context: Context, _event: Event) -> None:
    """Idempotent by nature. One sweep at a time, however often it is asked for."""
    lease = WorkLease(context.database, "sweep", f"sweep_{secrets.token_hex(8)}")
    if await asyncio.to_thread(lease.acquire, _LEASE_SECONDS) is None:
        return
    try:
        failed = await asyncio.to_thread(_run_steps, context)
        await context.serving.reconcile()
    finally:
        await asyncio.to_thread(lease.pause, 0.0)
    if failed:
        raise failed[0]


def _run_steps(context: Context) -> list[Exception]:
    """Each step whatever became of the others; returns what went wrong, to be raised at the end, so that all come again."""
    failed: list[Exception] = []
    for step in (_publish_events, _close_lost_requests, _prune_requests, _prune_events):
        try:
            step(context)
        except PlatformError as error:
            _log.warning("a step of the sweep failed: %s: %s", step.__name__.removeprefix("_"), error.message)
            failed.append(error)
        except Exception as error:  # whatever it was, the others must come
            _log.exception("a step of the sweep failed: %s", step.__name__.removeprefix("_"))
            failed.append(error)
    return failed


def _publish_events(context: Context) -> None:
    if context.publisher is not None:
        context.publisher.publish()


def _close_lost_requests(context: Context) -> None:
    context.ledger.interrupt(unseen_for=_LOST_AFTER_SECONDS)


def _prune_requests(context: Context) -> None:
    context.ledger.purge(older_than=UsageSettings.load(context.env).days * 86400)


def _prune_events(context: Context) -> None:
    context.deliveries.prune(older_than=_RETENTION_SECONDS)


# The cluster's clock sends its own; nothing is taken from them.
handle = event_function(consume, from_outbox=False)
