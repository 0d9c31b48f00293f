"""What the adapter must know of models, and tell of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from llmariner.platform.serving import EngineModel

__all__ = ["EngineKey", "ModelLookup", "ServedEngine"]

EngineKey = tuple[str, str | None]
"""Which engine: a model's id, and `EngineModel.adapters_of`."""


@dataclass(frozen=True)
class ServedEngine:
    """What one engine serves: a model, and adapters of it by their ids.

    `rejection`: why the model that was asked about is not among them.
    """

    engine: EngineModel
    adapters: tuple[EngineModel, ...] = ()
    rejection: str = ""

    @property
    def ids(self) -> list[str]:
        """The models that are asked of this engine."""
        own = [] if self.engine.adapters_of is not None else [self.engine.id]
        return [*own, *(adapter.id for adapter in self.adapters)]


class ModelLookup(Protocol):
    """Each call may ask a database."""

    async def engine(self, model_id: str) -> ServedEngine:
        """The engine that serves a model. ModelNotFound."""

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        """Those of them that are registered, all at once; how long a wake takes is told of models in `waking` only."""

    async def projects(self) -> set[str]:
        """The projects that have a model of their own."""

    async def record_wake(self, model_id: str, seconds: float) -> None:
        """A wake of a model took so long."""

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        """When one of them was last asked for, in seconds since 1970 (0: never); None: one is right now."""

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        """All InferenceServices that are not ours, name → model id; what was adopted and is not among them is gone.

        `only`: only that one was looked at.
        """
