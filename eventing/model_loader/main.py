"""Fetches the weights of a registered model, or the first piece of them."""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.models.weight_loads import load_weights
from llmariner.platform.events.cloudevents import Event

# A download of one machine may take hours, and a project has two at once: slow sources of some must not hold up others.
_THREADS = 64


def consume(context: Context, event: Event) -> None:
    """Idempotent: loaded models and models that were deleted meanwhile are skipped."""
    load_weights(context.registry, context.weights, event)


handle = event_function(consume, threads=_THREADS)
