"""Gives the members of a group what its roles are now, and takes what they are no more."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event
from llmariner.tenancy.groups.membership_sync import reconcile_group


def consume(context: Context, event: Event) -> None:
    """Settling again changes nothing. What doesn't fit into one delivery goes on with another event, one for each event."""
    data = event.data
    after = reconcile_group(context.database, str(data["issuer"]), str(data["group"]), str(data["after"]))
    if after:
        with context.database.write() as session:
            # An event that is delivered twice must not have two successors: their number would double with each slice.
            if outbox.mark_consumed(session, "group_settlement", event.id):
                outbox.add(session, event.type, event.subject, {**data, "after": after})


handle = event_function(consume)
