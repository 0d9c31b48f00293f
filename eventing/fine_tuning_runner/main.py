"""Checks the files of fine-tuning jobs, starts their processes, and ends what is left of them."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: what is to be done follows from the job's present state."""
    context.fine_tuning.reconciler.reconcile(str(event.data["id"]))


handle = event_function(consume)
