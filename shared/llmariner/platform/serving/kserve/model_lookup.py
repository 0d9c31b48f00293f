"""The port through which the adapter reads models from the registry and records their wakes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from llmariner.platform.serving import EngineModel

__all__ = ["EngineKey", "ModelLookup", "ServedEngine"]

EngineKey = tuple[str, str | None]
"""Identifies an engine: a model id and `EngineModel.adapters_of`."""


@dataclass(frozen=True)
class ServedEngine:
    """The models that one engine serves: a base model and LoRA adapters of it.

    `rejection`: why the requested model is not among them; empty if it is.
    """

    engine: EngineModel
    adapters: tuple[EngineModel, ...] = ()
    rejection: str = ""

    @property
    def ids(self) -> list[str]:
        """Ids of the models whose requests go to this engine."""
        own = [] if self.engine.adapters_of is not None else [self.engine.id]
        return [*own, *(adapter.id for adapter in self.adapters)]


class ModelLookup(Protocol):
    """Registry queries; each call may query a database."""

    async def engine(self, model_id: str) -> ServedEngine:
        """The engine that serves a model. Raises ModelNotFound."""

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        """The registered ones of these engines, in one query; `typical_wake_seconds` is set for ids in `waking` only."""

    async def projects(self) -> set[str]:
        """Ids of projects that own a model."""

    async def record_wake(self, model_id: str, seconds: float) -> None:
        """Record the duration of a wake."""

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        """Unix time of the last request to any of them, 0 if there was none; None while a request is in flight."""

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        """Register the models of InferenceServices that others created, name → model id; unregister those not in it.

        `only`: the name of the one InferenceService to consider. Idempotent.
        """
