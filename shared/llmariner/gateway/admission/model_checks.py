"""Whether a caller may use a model on a route, in its current state."""

from __future__ import annotations

from llmariner.errors import InvalidRequest, ModelNotFound
from llmariner.gateway.control_plane.port import Key, ModelState
from llmariner.gateway.requests.fields import Route
from llmariner.gateway.responses.limit_errors import model_not_allowed

__all__ = ["check_model_access"]


def check_model_access(state: ModelState, key: Key, route: Route) -> None:
    """Raises ModelNotFound, PermissionDenied or InvalidRequest if the key may not use the model on this route."""
    model_id = state.id
    if not state.loaded or (state.project_id is not None and state.project_id != key.project_id):
        raise ModelNotFound(model_id)
    refused = model_id in key.denied_models or state.base_model in key.denied_models
    if refused or (key.models is not None and model_id not in key.models):
        raise model_not_allowed(model_id)
    if route.task is not None and state.task != route.task:
        fits = "embeddings and reranking" if state.task == "embed" else "chat and completions"
        raise InvalidRequest(
            f"The model `{model_id}` does not serve {route.path}; it is for {fits}.",
            param="model",
            code="unsupported_model",
        )
    if not state.ready and not state.on_demand:
        raise InvalidRequest(
            f"The model `{model_id}` is inactive and not woken by requests. "
            f"Activate it: POST /v1/models/{model_id}:activate.",
            param="model",
            code="model_not_active",
        )
