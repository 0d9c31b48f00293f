"""Gives the chunks of a file in the index the attributes that the file has."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event
from llmariner.vector_stores.ingest.attributes_step import apply_attributes


def consume(context: Context, event: Event) -> None:
    """Idempotent: the row has the attributes, not the event."""
    apply_attributes(context.database, context.vectors, str(event.data["id"]))


handle = event_function(consume)
