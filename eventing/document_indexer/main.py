"""Embeds some chunks of a file of a vector store and puts them into the index."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent. A delivery handles a bounded number of chunks, and writes one event for the rest or completes the file."""
    context.chunk_indexer.run(str(event.data["id"]), event.data.get("retry_at"))


handle = event_function(consume)
