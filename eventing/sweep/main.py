"""What must happen without anybody asking: closes ledger entries whose process is gone."""

from llmariner.context import Context
from llmariner.http.function import consumer
from llmariner.platform.events.wire import Event

# A request under way gives a sign of life every 15 s.
_UNSEEN_SECONDS = 60.0


def consume(context: Context, _event: Event) -> None:
    """Idempotent by nature."""
    context.ledger.interrupt(unseen_for=_UNSEEN_SECONDS)


handle = consumer(consume)
