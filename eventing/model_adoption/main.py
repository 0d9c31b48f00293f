"""Registers the model of an InferenceService that a user created with `kubectl`, and unregisters it after a deletion.

The state is read from the cluster and not from the event, so events may be late, duplicate or out of order. The periodic
sweep makes up for lost events.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent


async def consume(context: Context, event: Event) -> None:
    """Idempotent. The data is a reference to the object, as an ApiServerSource writes it."""
    name = event.data.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedEvent("The data must be a reference to an InferenceService, with its name.")
    await context.serving.import_existing(name)


# Events of Kubernetes are not in the outbox; only the name is taken from one.
handle = event_function(consume, from_outbox=False)
