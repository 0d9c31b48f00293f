"""What must happen without anybody asking.

Closes ledger entries whose process is gone and drops old ones, whose sums stay; carries events that were left behind to
the Broker, forgets old ones; has idle models put to sleep.
"""

import asyncio

from llmariner.context import Context
from llmariner.http.function import consumer
from llmariner.platform.events.wire import Event
from llmariner.settings import UsageSettings

# A request under way gives a sign of life every 15 s.
_UNSEEN_SECONDS = 60.0
# Long enough for a consumer that was down over a weekend, and for people who ask what happened.
_KEPT_SECONDS = 7 * 86400.0


async def consume(context: Context, _event: Event) -> None:
    """Idempotent by nature."""
    await asyncio.to_thread(_sweep, context)
    await context.serving.tidy()


def _sweep(context: Context) -> None:
    context.ledger.interrupt(unseen_for=_UNSEEN_SECONDS)
    context.ledger.forget(older_than=UsageSettings.load(context.env).days * 86400)
    if context.publisher is not None:
        context.publisher.publish()
    context.deliveries.prune(older_than=_KEPT_SECONDS)


handle = consumer(consume)
