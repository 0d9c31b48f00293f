"""Stops the engine of a deleted model and removes the weights that the platform fetched for it.

An event may be duplicate or late, and its id may belong to another model by then: the registry decides what is deleted.
"""

import asyncio

from llmariner.context import Context
from llmariner.errors import ModelNotFound
from llmariner.http.entrypoint import event_function
from llmariner.platform.events.cloudevents import Event


async def consume(context: Context, event: Event) -> None:
    """Idempotent. Registered models and their weights are not touched."""
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
