"""Fetches the weights of a registered model."""

import contextlib
from functools import partial

from llmariner.context import Context
from llmariner.errors import ModelNotFound
from llmariner.http.entrypoint import event_function
from llmariner.models.weights import WeightsUnavailable
from llmariner.platform.events.cloudevents import Event


def consume(context: Context, event: Event) -> None:
    """Idempotent: loaded models and models that were deleted meanwhile are skipped."""
    model_id = str(event.data.get("registry_id", event.data["id"]))
    try:
        model = context.registry.get(model_id)
        if model.loaded:
            return
        if reason := context.registry.blocked_reason(model):
            raise WeightsUnavailable(reason)
        # Ids are reused: `created` keeps the weights of a deleted model from becoming those of its successor.
        fetched = context.weights.fetch(
            model, partial(context.registry.update_progress, model_id, created=model.created_at)
        )
        try:
            context.registry.mark_loaded(
                model_id,
                folder=fetched.folder,
                size_bytes=fetched.size_bytes,
                task=fetched.task or model.task,
                traits=fetched.traits,
                created=model.created_at,
            )
        except ModelNotFound:  # deleted since, when the registry had no folder to remove
            context.weights.discard(model_id, fetched.folder)
    except ModelNotFound:
        return
    except WeightsUnavailable as error:
        with contextlib.suppress(ModelNotFound):  # deleted since
            context.registry.mark_failed(model_id, str(error), created=model.created_at)


handle = event_function(consume)
