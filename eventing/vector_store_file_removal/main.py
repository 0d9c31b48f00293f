"""Removes the chunks of a file from the index that was removed from its vector store."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event
from llmariner.vector_stores.ingest.removal import remove_file


def consume(context: Context, event: Event) -> None:
    """Idempotent. The rows are deleted later, by `vector_store_upkeep`."""
    data = event.data
    place = {"project_id": str(data["project_id"]), "store_id": str(data["vector_store_id"])}
    remove_file(context.database, context.vectors, **place, row_id=str(data["id"]))


handle = event_function(consume)
