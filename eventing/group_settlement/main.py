"""Gives the members of a group what its roles are now, and takes what they are no more."""

from llmariner.context import Context
from llmariner.http.function import consumer
from llmariner.platform.events import outbox
from llmariner.platform.events.wire import Event
from llmariner.tenancy.group_settlement import settle_group


def consume(context: Context, event: Event) -> None:
    """Idempotent by nature. What doesn't fit into one delivery goes on with another event."""
    data = event.data
    after = settle_group(context.database, str(data["issuer"]), str(data["group"]), str(data["after"]))
    if after:
        with context.database.write() as session:
            outbox.add(session, event.type, event.subject, {**data, "after": after})


handle = consumer(consume)
