"""Ends the engine of a model that was deleted, and removes the weights that we fetched for it."""

import asyncio

from llmariner.context import Context
from llmariner.http.function import consumer
from llmariner.platform.events.wire import Event


async def consume(context: Context, event: Event) -> None:
    """Idempotent by nature: what is gone stays gone."""
    model_id, folder = str(event.data["id"]), str(event.data["folder"])
    await context.serving.remove(model_id, folder)
    await asyncio.to_thread(context.weights.discard, model_id, folder)


handle = consumer(consume)
