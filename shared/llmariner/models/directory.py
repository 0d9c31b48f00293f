"""What a serving adapter asks of models, answered by the registry and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Set

from llmariner.errors import Conflict, InvalidRequest, PlatformError
from llmariner.models.model import ActivationStatus, Model, NewModel, SourceRepository
from llmariner.models.registry import Registry
from llmariner.platform.serving import EngineModel
from llmariner.usage.ledger import Ledger

__all__ = ["ModelDirectory"]

_log = logging.getLogger(__name__)


class ModelDirectory:
    """Database work in threads, off the loop that relays tokens. See `kserve.adapter.Directory`.

    `gathered`: the models of which this process knows something that is not in the ledger yet.
    """

    def __init__(self, registry: Registry, ledger: Ledger, gathered: Callable[[], Set[str]] = frozenset) -> None:
        self._registry = registry
        self._ledger = ledger
        self._gathered = gathered

    async def find(self, model_id: str) -> EngineModel:
        """A model as an engine needs it. ModelNotFound."""
        return await asyncio.to_thread(self._find, model_id)

    async def adapters(self, model_id: str) -> tuple[EngineModel, ...]:
        """The fine-tuned models whose base it is, by id; those whose weights are here."""
        tuned = await asyncio.to_thread(self._registry.tuned_from, model_id)
        return tuple(
            self._for_engine(model, None) for model in tuned if model.loaded and not self._registry.blocked(model)
        )

    async def projects(self) -> set[str]:
        """The projects that have a model of their own."""
        return await asyncio.to_thread(self._registry.projects)

    async def woke(self, model_id: str, seconds: float) -> None:
        """Note how long a wake took."""
        with contextlib.suppress(PlatformError):  # deleted meanwhile
            await asyncio.to_thread(self._registry.woke, model_id, seconds)

    async def idle_since(self, model_id: str) -> float | None:
        """When it or a model tuned from it was last asked for; 0: never; None: a request is under way."""
        tuned = await asyncio.to_thread(self._registry.tuned_from, model_id)
        ids = [model_id, *(model.id for model in tuned)]
        if not self._gathered().isdisjoint(ids):
            return None
        return await asyncio.to_thread(self._ledger.idle_since, ids)

    async def adopt(self, services: Mapping[str, str], *, looked_at: str | None = None) -> None:
        """Have in the registry what others made on the cluster, model id → InferenceService; `looked_at`: only that one."""
        await asyncio.to_thread(self._adopt, services, looked_at)

    def _find(self, model_id: str) -> EngineModel:
        model = self._registry.get(model_id)
        wakes = self._registry.wakes(model.base_model_id or model_id)
        return self._for_engine(model, wakes[len(wakes) // 2] if wakes else None)

    def _adopt(self, services: Mapping[str, str], looked_at: str | None) -> None:
        known = {model_id: name for model_id, name in self._registry.adopted().items() if looked_at in (None, name)}
        for model_id, name in services.items():
            if model_id not in known:
                try:
                    self._registry.create(NewModel(model_id, SourceRepository.KUBERNETES, name))
                except (Conflict, InvalidRequest) as error:
                    _log.warning("the InferenceService %s is not served: %s", name, error.message)
        for model_id in known.keys() - services.keys():
            with contextlib.suppress(PlatformError):  # it was never loaded
                self._registry.activate(model_id, ActivationStatus.INACTIVE, project_id=None)
            with contextlib.suppress(PlatformError):  # somebody else was first
                self._registry.delete(model_id, project_id=None)

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
