"""Parses a file that was added to a vector store, and stores its chunks."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: a claim on the row limits a file to one process, and an old event does nothing."""
    context.document_parser.run(str(event.data["id"]), event.data.get("retry_at"))


handle = event_function(consume)
