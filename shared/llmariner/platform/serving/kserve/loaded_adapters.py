"""Whether an engine was started with an adapter that a job made: an engine that is awake gets one by its next start.

Other adapters are part of a model that somebody registers with its engine asleep, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter_fetch import adapter_path, is_own_file
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.kserve.phases import ObservedModel

__all__ = ["is_missing", "started_with", "tuned_adapter"]

Body = dict[str, Any]


def tuned_adapter(served: ServedEngine, model_id: str) -> EngineModel | None:
    """The adapter of that id, if a job made it; None for another model."""
    return next((each for each in served.adapters if each.id == model_id and is_own_file(each)), None)


def is_missing(service: Body | None, adapter: EngineModel) -> bool:
    """Whether there is an InferenceService, and it is without the adapter."""
    return service is not None and not _names(service["spec"]["predictor"]["model"].get("args", ()), adapter)


def started_with(observed: ObservedModel, adapter: EngineModel) -> ObservedModel:
    """The objects without the pods that were started before the adapter was there."""
    pods = [
        pod
        for pod in observed.pods
        if any(_names(container.get("args", ()), adapter) for container in pod["spec"]["containers"])
    ]
    return replace(observed, pods=pods)


def _names(arguments: Iterable[str], adapter: EngineModel) -> bool:
    return f"{adapter.name}={adapter_path(adapter)}" in arguments
