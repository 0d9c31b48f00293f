"""What the consumers of events about models do to have weights fetched."""

from __future__ import annotations

import contextlib
from functools import partial

from llmariner.errors import ModelNotFound
from llmariner.models.model import LoadingStatus, Model
from llmariner.models.registry import ModelRegistry
from llmariner.models.weights import LoadingDeferred, LoadingUnfinished, WeightFetcher, WeightsUnavailable
from llmariner.platform.events.cloudevents import Event

__all__ = ["continue_stalled", "load_weights"]


def load_weights(registry: ModelRegistry, weights: WeightFetcher, event: Event) -> None:
    """Fetch the weights of an event's model, or the next piece of them; then have the next piece of its project's fetched.

    Idempotent: loaded and failed models, and models that were deleted meanwhile, are skipped.
    """
    try:
        model = registry.get(str(event.data.get("registry_id", event.data["id"])))
    except ModelNotFound:
        return
    try:
        if not (model.loaded or model.loading_status is LoadingStatus.FAILED):
            _load(registry, weights, model)
    except LoadingDeferred:
        return
    except (LoadingUnfinished, ModelNotFound):  # to be continued, or deleted since
        pass
    except WeightsUnavailable as error:
        with contextlib.suppress(ModelNotFound):  # deleted since
            registry.mark_failed(model.id, str(error), created=model.created_at)
    if waiting := weights.next_waiting(model.project_id):
        registry.request_loading(*waiting, after_event=event.id)


def continue_stalled(registry: ModelRegistry, weights: WeightFetcher) -> None:
    """Have loadings continue whose process was killed and whose event is lost. For the sweep."""
    for model_id, created in weights.stalled():
        registry.request_loading(model_id, created)


def _load(registry: ModelRegistry, weights: WeightFetcher, model: Model) -> None:
    if reason := registry.blocked_reason(model):
        raise WeightsUnavailable(reason)
    # Ids are reused: `created` keeps the weights of a deleted model from becoming those of its successor.
    fetched = weights.fetch(model, partial(registry.update_progress, model.id, created=model.created_at))
    try:
        registry.mark_loaded(
            model.id,
            folder=fetched.folder,
            size_bytes=fetched.size_bytes,
            task=fetched.task or model.task,
            traits=fetched.traits,
            created=model.created_at,
        )
    except ModelNotFound:  # deleted since, when the registry had no folder to remove
        weights.discard(model.id, fetched.folder)
