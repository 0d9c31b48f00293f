"""Starts, stops and removes the servers of notebooks."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: what is to be done follows from the notebook's present state."""
    context.notebooks.reconciler.reconcile(str(event.data["id"]))


handle = event_function(consume)
