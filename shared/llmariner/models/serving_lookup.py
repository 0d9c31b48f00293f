"""The models that a serving adapter serves, read from the registry and the usage ledger."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace

from llmariner.errors import Conflict, InvalidRequest, PlatformError
from llmariner.models.model import ActivationStatus, Model, NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.restrictions import weight_uri
from llmariner.platform.serving import EngineModel, served_name
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine
from llmariner.usage.ledger import Ledger

__all__ = ["RegistryModelLookup"]

_log = logging.getLogger(__name__)
_REACHABLE = ("hf://", "s3://", "gs://", "https://")
_PROJECTS = 10_000
"""Projects whose organizations are remembered."""


class RegistryModelLookup:
    """Implements `kserve.model_lookup.Directory`; database work runs in threads, not on the loop that relays tokens.

    `pending` returns the models, with the projects of their callers, whose usage this process has not written to the ledger.
    `tokens` makes a model's `EngineModel.weights_token`.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        pending: Callable[[], Set[tuple[str, str | None]]] = frozenset,
        tokens: Callable[[Model], str] = lambda _model: "",
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._pending = pending
        self._organizations: dict[str, str | None] = {}
        self._tokens = tokens

    async def find(self, model_id: str) -> EngineModel:
        """A model as an engine needs it. ModelNotFound."""
        return await asyncio.to_thread(self._find, model_id)

    async def engine(self, model_id: str) -> ServedEngine:
        """The engine that serves a model. ModelNotFound."""
        return await asyncio.to_thread(self._engine, model_id)

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        """The registered engines among `keys`; those of models in `waking` have their typical wake time."""
        return await asyncio.to_thread(self._engines, keys, waking)

    async def projects(self) -> set[str]:
        """The projects that have a model of their own."""
        return await asyncio.to_thread(self._registry.projects_with_models)

    async def record_wake(self, model_id: str, seconds: float) -> None:
        """Record the duration of a wake in seconds; no effect on a model that is deleted."""
        with contextlib.suppress(PlatformError):  # deleted meanwhile
            await asyncio.to_thread(self._registry.record_wake, model_id, seconds)

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        """The time of the last request for one of the models, in seconds since 1970; 0: never; None: one is running."""
        found = await asyncio.to_thread(self._registry.get_many, model_ids)
        names = {served_name(model_id) for model_id in model_ids}  # the ledger has names, not ids
        owners = {model.name: model.project_id for model in found.values() if model.project_id is not None}
        for name, project in self._pending():
            if name in names and project in (None, owners.get(name, project)):
                return None
        return await asyncio.to_thread(self._ledger.idle_since, sorted(names), owners)

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        """Register the models of InferenceServices that users created: name → model id.

        Registered ones that are missing are deleted. `only` limits both to the InferenceService of that name.
        """
        await asyncio.to_thread(self._import_existing, services, only)

    def _find(self, model_id: str) -> EngineModel:
        model = self._registry.get(model_id)
        wake_durations = self._registry.wake_durations(model.base_model_id or model_id)
        return self._for_engine(model, wake_durations[len(wake_durations) // 2] if wake_durations else None)

    def _engine(self, model_id: str) -> ServedEngine:
        model = self._registry.get(model_id)
        base = model if model.base_model_id is None else self._registry.get(model.base_model_id)
        # An adapter of a shared base has an engine of its own: other projects can neither call it nor suffer its failures.
        separate_project = model.project_id if model.project_id != base.project_id else None
        project = base.project_id if separate_project is None else separate_project
        adapter_models = self._registry.adapters_of([(base.id, project)]).get((base.id, project), ())
        served = self._served_engine(base, separate_project, adapter_models, self._registry.wake_durations(base.id))
        return served if model is base else replace(served, rejection=self._registry.blocked_reason(model))

    def _engines(self, keys: Collection[EngineKey], waking: Collection[str]) -> dict[EngineKey, ServedEngine]:
        bases = self._registry.get_many({model_id for model_id, _ in keys})
        projects = {key: key[1] or bases[key[0]].project_id for key in keys if key[0] in bases}
        adapter_models = self._registry.adapters_of(
            {(model_id, project) for (model_id, _), project in projects.items()}
        )
        wake_durations = {model_id: self._registry.wake_durations(model_id) for model_id in waking}
        return {
            key: self._served_engine(
                bases[key[0]], key[1], adapter_models.get((key[0], project), ()), wake_durations.get(key[0], ())
            )
            for key, project in projects.items()
        }

    def _served_engine(
        self, base: Model, separate_project: str | None, adapter_models: Sequence[Model], wakes: Sequence[float]
    ) -> ServedEngine:
        """`adapter_models`: the adapters of `separate_project`, or else of the project of the base model."""
        ready = (each for each in adapter_models if each.loaded and not self._registry.blocked_reason(each))
        adapters = tuple(self._for_engine(each, None) for each in ready)
        engine = self._for_engine(base, wakes[len(wakes) // 2] if wakes else None)
        kept = any(adapter.keep_awake for adapter in adapters)
        if separate_project is None:
            return ServedEngine(replace(engine, keep_awake=engine.keep_awake or kept), adapters)
        owned = replace(engine, project=separate_project, organization=self._organization_of(separate_project))
        return ServedEngine(replace(owned, keep_awake=kept, adapters_of=separate_project), adapters)

    def _import_existing(self, services: Mapping[str, str], only: str | None) -> None:
        registered = {
            model_id: name for model_id, name in self._registry.imported_services().items() if only in (None, name)
        }
        for model_id, name in registered.items():
            if services.get(name) == model_id:
                continue
            with contextlib.suppress(PlatformError):  # the model was never loaded
                self._registry.activate(model_id, ActivationStatus.INACTIVE, project_id=None)
            with contextlib.suppress(PlatformError):  # another process deleted it first
                self._registry.delete(model_id, project_id=None)
        for name, model_id in services.items():
            if registered.get(model_id) != name:
                try:
                    self._registry.create(NewModel(model_id, SourceRepository.KUBERNETES, name))
                except (Conflict, InvalidRequest) as error:
                    _log.warning("the InferenceService %s is not served: %s", name, error.message)

    def _for_engine(self, model: Model, typical_wake_seconds: float | None) -> EngineModel:
        return EngineModel(
            id=model.id,
            folder=model.folder,
            task=model.task,
            size_bytes=model.size_bytes,
            extra_args=model.config.extra_args,
            base=model.base_model_id,
            keep_awake=model.activation_status is ActivationStatus.ACTIVE,
            typical_wake_seconds=typical_wake_seconds,
            gpus=model.config.gpu,
            replicas=model.config.replicas,
            max_replicas=model.config.max_replicas,
            project=model.project_id,
            organization=self._organization_of(model.project_id),
            blocked=self._registry.blocked_reason(model),
            trusted=model.approved,
            created=model.created_at,
            tool_parser=model.traits.tool_parser,
            reasoning_parser=model.traits.reasoning_parser,
            weights_token=self._tokens(model),
            storage_uri=_storage_uri(model),
            allowed_clusters=model.config.allowed_clusters,
        )

    def _organization_of(self, project_id: str | None) -> str | None:
        """The organization of a project, which never changes."""
        if project_id is None:
            return None
        if project_id not in self._organizations:
            if len(self._organizations) >= _PROJECTS:
                self._organizations.clear()
            self._organizations[project_id] = self._registry.organization_of(project_id)
        return self._organizations[project_id]


def _storage_uri(model: Model) -> str:
    """From where other clusters fetch a model; empty for what only this installation's machine or cluster has."""
    uri = weight_uri(model.source_repository, model.model_file_location)
    # A volume is one cluster's: it is looked for in others only where the model names them.
    reachable = uri.startswith(_REACHABLE) or (uri.startswith("pvc://") and model.config.allowed_clusters)
    return uri if reachable and model.credential_id is None else ""
