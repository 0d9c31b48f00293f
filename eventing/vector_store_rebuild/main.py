"""Hands the first files of a vector store that is to be rebuilt to the indexer."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event
from llmariner.vector_stores.ingest.rebuild import hand_on_rebuild


def consume(context: Context, event: Event) -> None:
    """Idempotent. The indexer hands on the others, one for each that it indexed."""
    hand_on_rebuild(context.database, str(event.data["id"]))


handle = event_function(consume)
