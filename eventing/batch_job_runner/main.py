"""Starts, cancels and removes batch jobs."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: what is to be done follows from the job's present state."""
    context.batch_job_reconciler.reconcile(str(event.data["id"]))


handle = event_function(consume)
