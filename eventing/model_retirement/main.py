"""Ends the engine of a model that was deleted, and removes the weights that we fetched for it.

An event may come twice, late, or from somebody who forged it, and the id may be another model's by then: what is deleted is
asked of the registry.
"""

import asyncio

from llmariner.context import Context
from llmariner.errors import ModelNotFound
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


async def consume(context: Context, event: Event) -> None:
    """Idempotent by nature: what is gone stays gone, and what is registered stays."""
    model_id, folder = str(event.data.get("registry_id", event.data["id"])), str(event.data["folder"])
    await context.serving.remove(model_id, folder)
    await asyncio.to_thread(_discard, context, model_id, folder)


def _discard(context: Context, model_id: str, folder: str) -> None:
    try:
        if context.registry.get(model_id).folder == folder:
            return
    except ModelNotFound:
        pass
    context.weights.discard(model_id, folder)


handle = event_function(consume)
