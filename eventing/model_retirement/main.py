"""Removes the weights that we fetched for a model that was deleted."""

from llmariner.context import Context
from llmariner.http.function import consumer
from llmariner.platform.events.wire import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent by nature: what is gone stays gone."""
    context.weights.discard(str(event.data["id"]), str(event.data["folder"]))


handle = consumer(consume)
