"""Stops the engine of a deleted model and removes the weights that the platform fetched for it.

An event may be duplicate or late, and its id may belong to another model by then: the registry decides what is deleted.
"""

import asyncio
import contextlib

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
    successor = None
    with contextlib.suppress(ModelNotFound):
        successor = context.registry.get(model_id)
    if successor is None or not folder or successor.folder != folder:
        context.weights.discard(model_id, folder, successor)


handle = event_function(consume)
