"""Removes the chunks of a deleted vector store from the index."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event
from llmariner.vector_stores.ingest.removal import remove_store


def consume(context: Context, event: Event) -> None:
    """Idempotent. The rows are deleted later, by `vector_store_upkeep`."""
    data = event.data
    remove_store(context.database, context.vectors, project_id=str(data["project_id"]), store_id=str(data["id"]))


handle = event_function(consume)
