"""The models of the registry as engines of a worker cluster need them: their weights come from the source itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ModelLookup, ServedEngine

__all__ = ["WorkerModelLookup"]


class WorkerModelLookup:
    """Another lookup, for one worker cluster. InferenceServices that others created there are nobody's models here."""

    def __init__(self, lookup: ModelLookup) -> None:
        self._lookup = lookup

    async def engine(self, model_id: str) -> ServedEngine:
        """See `ModelLookup`."""
        return _remote(await self._lookup.engine(model_id))

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        """See `ModelLookup`."""
        found = await self._lookup.engines(keys, waking=waking)
        return {key: _remote(served) for key, served in found.items()}

    async def projects(self) -> set[str]:
        """See `ModelLookup`."""
        return await self._lookup.projects()

    async def record_wake(self, model_id: str, seconds: float) -> None:
        """See `ModelLookup`."""
        await self._lookup.record_wake(model_id, seconds)

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        """See `ModelLookup`."""
        return await self._lookup.idle_since(model_ids)

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        """No effect: only those of the home cluster become models."""


def _remote(served: ServedEngine) -> ServedEngine:
    return replace(served, engine=_fetched(served.engine), adapters=tuple(map(_fetched, served.adapters)))


def _fetched(model: EngineModel) -> EngineModel:
    if model.storage_uri:
        return replace(model, folder=model.storage_uri)
    return replace(model, blocked="Its weights are where the control plane runs: no other cluster can fetch them.")
