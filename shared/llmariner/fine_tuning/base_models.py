"""The base models of jobs: whether each is still the one that its job began with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from llmariner.errors import Conflict, ModelNotFound
from llmariner.models.model import Model
from llmariner.models.registry import ModelRegistry

__all__ = ["base_model"]


def base_model(registry: ModelRegistry, job: Row[Any]) -> Model:
    """The base model of a job. Raises Conflict where it was deleted, also where one of its name took its place."""
    try:
        model = registry.get(job.model_id)
    except ModelNotFound:
        model = None
    if model is None or model.created_at != job.model_created_at or _is_hidden(registry, job, model):
        raise Conflict(
            f"The base model '{job.model}' was deleted, or is hidden by one of that name.", code="base_model_deleted"
        )
    return model


def _is_hidden(registry: ModelRegistry, job: Row[Any], model: Model) -> bool:
    """Whether the project has made a model of the base model's name since, which an adapter would be taken to be for."""
    return registry.get(model.name, project_id=job.project_id).id != model.id
