"""Makes a model known as soon as somebody has made an InferenceService with `kubectl`, and forgets it when that is deleted.

Asleep or awake, ours or not: what is so is asked from the cluster, so an event may come late, twice or out of order. One
that is lost is made good by the clock's sweep.
"""

from llmariner.context import Context
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event, MalformedEvent


async def consume(context: Context, event: Event) -> None:
    """Idempotent by nature. The data is a reference to the object, as an ApiServerSource writes it."""
    name = event.data.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedEvent("The data must be a reference to an InferenceService, with its name.")
    await context.serving.import_existing(name)


# Kubernetes' events are not ours to know: nothing but the name is taken from one.
handle = event_function(consume, from_outbox=False)
