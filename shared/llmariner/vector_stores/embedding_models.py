"""The embedding model that a caller names for a vector store."""

from __future__ import annotations

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.limits.restrictions import caller_restriction
from llmariner.models.model import Task
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller

__all__ = ["embedding_model_id"]

_PARAM = "embedding_model"


def embedding_model_id(database: Database, registry: ModelRegistry, caller: Caller, name: str) -> str:
    """The registry's id of a model that embeds texts and that the caller may use.

    NotFound for an unknown name and another project's model, PermissionDenied for one that the caller's key or project may
    not use, InvalidRequest for one that does not embed, Conflict while its weights are loaded.
    """
    try:
        model = registry.get(name, project_id=caller.key_owner.project_id)
    except NotFound as error:
        raise NotFound(error.message, param=_PARAM, code=error.code) from error
    if not caller_restriction(database, caller).allows(model.name, model.base_name):
        raise PermissionDenied(
            f"You may not use the model `{model.name}`: your API key or project is restricted to other models.",
            param=_PARAM,
            code="model_not_allowed",
        )
    if not model.loaded:
        raise Conflict(
            f"The weights of the model `{model.name}` are not loaded yet. Try again when GET /v1/models lists it.",
            param=_PARAM,
            code="model_not_loaded",
        )
    if model.task != Task.EMBED:
        raise InvalidRequest(
            f"The model `{model.name}` does not embed texts. Name one whose 'task' is '{Task.EMBED}' in GET /v1/models.",
            param=_PARAM,
            code="unsupported_model",
        )
    return model.id
