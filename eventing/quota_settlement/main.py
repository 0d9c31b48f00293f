"""Applies the quotas of an organization to the queues of the cluster: a killed call or an archived project left others.

The periodic sweep asks for it.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent
from llmariner.quotas.installation import settle


def consume(context: Context, event: Event) -> None:
    """Idempotent. The quotas are read from the database and not from the event, so events may be late or duplicate."""
    organization_id = event.data.get("organization_id")
    if not (isinstance(organization_id, str) and organization_id):
        raise MalformedEvent("The data must name an organization.")
    settle(context.env, context.database, organization_id)


handle = event_function(consume)
