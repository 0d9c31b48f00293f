"""Sends the metrics of fine-tuning jobs to their integrations."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: what is to be sent follows from what was recorded as sent."""
    context.fine_tuning.tracked_runs.send(str(event.data["id"]))


handle = event_function(consume)
