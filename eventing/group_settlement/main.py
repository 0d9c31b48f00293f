"""Synchronizes the memberships of a group's members with the group's roles."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event
from llmariner.tenancy.groups.membership_sync import reconcile_group


def consume(context: Context, event: Event) -> None:
    """Idempotent. Each delivery handles one batch of members and writes one event for the next batch."""
    data = event.data
    after = reconcile_group(context.database, str(data["issuer"]), str(data["group"]), str(data["after"]))
    if after:
        with context.database.write() as session:
            # An event that is delivered twice must not write two events: their number would double with each batch.
            if outbox.mark_consumed(session, "group_settlement", event.id):
                outbox.add(session, event.type, event.subject, {**data, "after": after})


handle = event_function(consume)
