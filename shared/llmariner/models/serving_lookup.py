"""What a serving adapter asks of models, answered by the registry and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace

from llmariner.errors import Conflict, InvalidRequest, PlatformError
from llmariner.models.model import ActivationStatus, Model, NewModel, SourceRepository
from llmariner.models.registry import Registry
from llmariner.platform.serving import EngineModel, served_name
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine
from llmariner.usage.ledger import Ledger

__all__ = ["ModelDirectory"]

_log = logging.getLogger(__name__)


class ModelDirectory:
    """Database work in threads, off the loop that relays tokens. See `kserve.directory.Directory`.

    `gathered`: the models, and who asked for them, of which this process knows something that is not in the ledger yet.
    """

    def __init__(
        self, registry: Registry, ledger: Ledger, gathered: Callable[[], Set[tuple[str, str | None]]] = frozenset
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._gathered = gathered

    async def find(self, model_id: str) -> EngineModel:
        """A model as an engine needs it. ModelNotFound."""
        return await asyncio.to_thread(self._find, model_id)

    async def engine(self, model_id: str) -> ServedEngine:
        """The engine that serves a model. ModelNotFound."""
        return await asyncio.to_thread(self._engine, model_id)

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        """Those of them that are registered; how long a wake takes is told of models in `waking` only."""
        return await asyncio.to_thread(self._engines, keys, waking)

    async def projects(self) -> set[str]:
        """The projects that have a model of their own."""
        return await asyncio.to_thread(self._registry.projects)

    async def record_wake(self, model_id: str, seconds: float) -> None:
        """Note how long a wake took."""
        with contextlib.suppress(PlatformError):  # deleted meanwhile
            await asyncio.to_thread(self._registry.woke, model_id, seconds)

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        """When one of them was last asked for; 0: never; None: a request is under way."""
        found = await asyncio.to_thread(self._registry.several, model_ids)
        names = {served_name(model_id) for model_id in model_ids}  # what the ledger calls them
        owners = {model.name: model.project_id for model in found.values() if model.project_id is not None}
        for name, project in self._gathered():
            if name in names and project in (None, owners.get(name, project)):
                return None
        return await asyncio.to_thread(self._ledger.idle_since, sorted(names), owners)

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        """Have in the registry what others made on the cluster, InferenceService → model id; `only`: only that one."""
        await asyncio.to_thread(self._adopt, services, only)

    def _find(self, model_id: str) -> EngineModel:
        model = self._registry.get(model_id)
        wakes = self._registry.wakes(model.base_model_id or model_id)
        return self._for_engine(model, wakes[len(wakes) // 2] if wakes else None)

    def _engine(self, model_id: str) -> ServedEngine:
        model = self._registry.get(model_id)
        base = model if model.base_model_id is None else self._registry.get(model.base_model_id)
        # An adapter of a model that others share is served apart: neither can they reach it, nor its faults them.
        apart = model.project_id if model.project_id != base.project_id else None
        project = base.project_id if apart is None else apart
        tuned = self._registry.tuned([(base.id, project)]).get((base.id, project), ())
        served = self._served(base, apart, tuned, self._registry.wakes(base.id))
        return served if model is base else replace(served, rejection=self._registry.blocked(model))

    def _engines(self, keys: Collection[EngineKey], waking: Collection[str]) -> dict[EngineKey, ServedEngine]:
        bases = self._registry.several({model_id for model_id, _ in keys})
        projects = {key: key[1] or bases[key[0]].project_id for key in keys if key[0] in bases}
        tuned = self._registry.tuned({(model_id, project) for (model_id, _), project in projects.items()})
        wakes = {model_id: self._registry.wakes(model_id) for model_id in waking}
        return {
            key: self._served(bases[key[0]], key[1], tuned.get((key[0], project), ()), wakes.get(key[0], ()))
            for key, project in projects.items()
        }

    def _served(self, base: Model, apart: str | None, tuned: Sequence[Model], wakes: Sequence[float]) -> ServedEngine:
        """`tuned`: the adapters of one project, which is the base's own unless that is served `apart`."""
        ready = (each for each in tuned if each.loaded and not self._registry.blocked(each))
        adapters = tuple(self._for_engine(each, None) for each in ready)
        engine = self._for_engine(base, wakes[len(wakes) // 2] if wakes else None)
        kept = any(adapter.keep_awake for adapter in adapters)
        if apart is None:
            return ServedEngine(replace(engine, keep_awake=engine.keep_awake or kept), adapters)
        return ServedEngine(replace(engine, keep_awake=kept, project=apart, adapters_of=apart), adapters)

    def _adopt(self, services: Mapping[str, str], only: str | None) -> None:
        known = {model_id: name for model_id, name in self._registry.adopted().items() if only in (None, name)}
        for model_id, name in known.items():
            if services.get(name) == model_id:
                continue
            with contextlib.suppress(PlatformError):  # it was never loaded
                self._registry.activate(model_id, ActivationStatus.INACTIVE, project_id=None)
            with contextlib.suppress(PlatformError):  # somebody else was first
                self._registry.delete(model_id, project_id=None)
        for name, model_id in services.items():
            if known.get(model_id) != name:
                try:
                    self._registry.create(NewModel(model_id, SourceRepository.KUBERNETES, name))
                except (Conflict, InvalidRequest) as error:
                    _log.warning("the InferenceService %s is not served: %s", name, error.message)

    def _for_engine(self, model: Model, typical: float | None) -> EngineModel:
        return EngineModel(
            id=model.id,
            folder=model.folder,
            task=model.task,
            size_bytes=model.size_bytes,
            extra_args=model.config.extra_args,
            base=model.base_model_id,
            keep_awake=model.activation_status is ActivationStatus.ACTIVE,
            typical_wake_seconds=typical,
            gpus=model.config.gpu,
            replicas=model.config.replicas,
            max_replicas=model.config.max_replicas,
            project=model.project_id,
            blocked=self._registry.blocked(model),
            trusted=model.approved,
            created=model.created_at,
        )
