"""The serving port on InferenceServices.

One writer per transition: `wake` scales a Deployment up from zero, an autoscaler (KEDA or an HPA) scales it between one
and many, the sweep scales it to zero, and only at the resource version at which no request was in flight. The adapter keeps
no state but short caches, so every process with this adapter reports the same status, derived from the cluster's objects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from llmariner.errors import ModelNotFound, PlatformError
from llmariner.gateway.single_flight import SingleFlight
from llmariner.http_client import Client
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Conflict
from llmariner.platform.kube.resources import INFERENCE_SERVICES
from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel, Phase, Status
from llmariner.platform.serving.engine_metrics import EngineMetrics, read_metrics
from llmariner.platform.serving.kserve.addresses import DirectAddresses, EngineAddresses
from llmariner.platform.serving.kserve.answer_checks import AnswerChecks
from llmariner.platform.serving.kserve.cluster_reader import ClusterReader
from llmariner.platform.serving.kserve.loaded_adapters import is_missing, started_with, tuned_adapter
from llmariner.platform.serving.kserve.model_lookup import ModelLookup, ServedEngine
from llmariner.platform.serving.kserve.objects import (
    belongs_to_other_model,
    capacity,
    engine_key,
    is_managed,
    is_same_registration,
    model_id_of,
    object_name,
)
from llmariner.platform.serving.kserve.phases import ObservedModel, status_of
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.platform.serving.kserve.standby import StandbyPods
from llmariner.platform.serving.kserve.transitions import Transitions
from llmariner.settings import KServeSettings

__all__ = ["KServeServing"]

_log = logging.getLogger(__name__)
# Cache time of a model's objects: waiting requests poll ten times a second and share one read.
_OBSERVATION_SECONDS = 0.5
_LIST_SECONDS = 2.0
# Models that a list or a sweep processes concurrently: each may query engines, the cluster and the database.
_CONCURRENCY = 16
_NAME_COLLISION = (
    "Another model's object on the cluster has the name that this one's would have: register it under another name."
)


class KServeServing:
    """See the package, and `platform.serving.Serving` for the port. `client` reaches the origins of `addresses`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: KServeSettings,
        lookup: ModelLookup,
        *,
        addresses: EngineAddresses | None = None,
        client: Client | None = None,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._lookup = lookup
        self._client = client or Client()
        self._addresses = addresses or DirectAddresses()
        self._queues = ProjectQueues(cluster, settings)
        self._standby = StandbyPods(cluster, self._client, settings)
        self._answer_checks = AnswerChecks(cluster, self._client, settings.namespace, self._addresses)
        self._reader = ClusterReader(cluster, settings, self._queues)
        self._transitions = Transitions(cluster, settings, self._queues, self._standby)
        self._observers: list[Callable[[str, Status], None]] = []
        self._phases: dict[str, tuple[Phase, tuple[str, ...], list[str]]] = {}
        self._observations: dict[str, tuple[float, asyncio.Task[ObservedModel]]] = {}
        self._cached_list: tuple[float, dict[str, Status]] = (float("-inf"), {})
        self._lookups: SingleFlight[ServedEngine] = SingleFlight()
        self._listings: SingleFlight[dict[str, Status]] = SingleFlight()
        self._sweeps: SingleFlight[None] = SingleFlight()
        self._metrics: dict[str, tuple[float, EngineMetrics]] = {}
        self._wake_started_at: dict[str, float] = {}
        self._rejections: dict[str, str] = {}

    async def status(self, model_id: str) -> Status:
        """See the port. A LoRA adapter has the status of the engine that serves it."""
        served = await self._lookups.do(model_id, partial(self._find_engine, model_id))
        if served.rejection:
            return Status(Phase.FAILED, message=served.rejection)
        name = self._name(served.engine)
        observed = await self._observe(name)
        if belongs_to_other_model(observed.service, served.engine):
            return Status(Phase.FAILED, message=_NAME_COLLISION)
        self._standby.reconcile(name, observed.pods)
        if (adapter := tuned_adapter(served, model_id)) is not None:
            if is_missing(observed.service, adapter):
                return Status(Phase.ASLEEP, estimate_seconds=served.engine.typical_wake_seconds)
            observed = started_with(observed, adapter)
        return await self._full_status(served, observed)

    async def statuses(self) -> dict[str, Status]:
        """See the port. Concurrent callers share one list (single-flight)."""
        read_at, cached = self._cached_list
        if time.monotonic() - read_at <= _LIST_SECONDS:
            return cached
        return await self._listings.do("list", self._list)

    async def wake(self, model_id: str) -> None:
        """See the port."""
        served = await self._lookup.engine(model_id)
        model = served.engine
        name = self._name(model)
        observed = await self._observe(name)
        if model.blocked or served.rejection or belongs_to_other_model(observed.service, model):
            return
        if observed.service is not None and not is_same_registration(observed.service, model):
            await asyncio.to_thread(self._transitions.delete, observed.service)
            self._observations.pop(name, None)
            return  # the next wake of a waiting request creates the new one
        status, adapter = status_of(observed, model, now=time.time()), tuned_adapter(served, model_id)
        starts_again = adapter is not None and is_missing(observed.service, adapter)
        if not starts_again and status.phase not in (Phase.ASLEEP, Phase.STOPPING, Phase.FAILED):
            return
        try:
            self._standby.reconcile(name, await asyncio.to_thread(self._transitions.wake, served, observed))
            self._rejections.pop(name, None)
        except (ClusterError, ValueError) as error:
            self._rejections[name] = _rejection_message(error)
            _log.warning("waking %s: %s", model.id, error)
        if status.phase is not Phase.FAILED:
            self._wake_started_at.setdefault(name, time.monotonic())
        self._observations.pop(name, None)

    async def sleep(self, model_id: str) -> None:
        """See the port."""
        model = (await self._lookup.engine(model_id)).engine
        name = self._name(model)
        if belongs_to_other_model((await self._observe(name)).service, model):
            return
        self._rejections.pop(name, None)
        self._wake_started_at.pop(name, None)
        await asyncio.to_thread(self._transitions.sleep, name)
        self._observations.pop(name, None)
        self._cached_list = (float("-inf"), {})

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port. InferenceServices of others stay."""
        if folder.startswith(IMPORTED_SCHEME):
            return
        deleted = EngineModel(model_id, folder, "generate", 0)
        name = self._name(deleted)
        service = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, name)
        if (
            service is not None
            and not belongs_to_other_model(service, deleted)
            and not await self._registered(model_id, service)
        ):
            await asyncio.to_thread(self._transitions.delete, service)
        await self._queues.delete_unused(asyncio.to_thread, self._lookup.projects)
        self._observations.pop(name, None)

    async def evict(self, model_id: str) -> None:
        """Delete the model's InferenceService in this cluster, since another cluster serves the model. Idempotent."""
        served = await self._lookup.engine(model_id)
        name = self._name(served.engine)
        service = (await self._observe(name)).service
        if service is not None and not belongs_to_other_model(service, served.engine):
            await asyncio.to_thread(self._transitions.delete, service)
        self._observations.pop(name, None)
        self._cached_list = (float("-inf"), {})

    async def import_existing(self, service: str) -> None:
        """See the port."""
        found = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, service)
        others = {} if found is None or is_managed(found) else {service: model_id_of(found)}
        await self._lookup.import_existing(others, only=service)

    async def reconcile(self) -> None:
        """See the port: idle models go to sleep, models of others' InferenceServices are registered.

        Concurrent calls share one sweep (single-flight).
        """
        await self._sweeps.do("sweep", self._sweep)

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """See the port: a change is observed when `status` or `statuses` is called."""
        self._observers.append(observer)

    async def close(self) -> None:
        """See the port: the engines belong to the cluster and keep running."""
        await self._standby.close()
        await self._answer_checks.close()
        self._client.close()
        await asyncio.to_thread(self._cluster.close)

    async def _registered(self, model_id: str, service: dict[str, Any]) -> bool:
        """Whether an InferenceService belongs to the model that the registry has under that id now."""
        try:
            return is_same_registration(service, (await self._lookup.engine(model_id)).engine)
        except ModelNotFound:
            return False

    async def _find_engine(self, model_id: str) -> ServedEngine:
        return await self._lookup.engine(model_id)

    async def _observe(self, name: str) -> ObservedModel:
        """The objects of one model; callers within `_OBSERVATION_SECONDS` share one read."""
        read_at, task = self._observations.get(name, (float("-inf"), None))
        if task is None or time.monotonic() - read_at > _OBSERVATION_SECONDS or (task.done() and task.exception()):
            task = asyncio.create_task(asyncio.to_thread(self._reader.read_one, name))
            self._observations[name] = (time.monotonic(), task)
        return await asyncio.shield(task)

    async def _full_status(self, served: ServedEngine, observed: ObservedModel) -> Status:
        """The status with endpoints and engine metrics. Notifies observers when phase or endpoints change."""
        model = served.engine
        name = self._name(model)
        status = status_of(observed, model, now=time.time())
        if not is_same_registration(observed.service, model):
            status = Status(Phase.STOPPING, message="the engine of a deleted model of this id has not ended yet")
        rejection = model.blocked or self._rejections.get(name)
        if rejection and status.phase in (Phase.ASLEEP, Phase.STOPPING):
            status = Status(Phase.FAILED, message=rejection)
        if status.phase is Phase.READY:
            self._answer_checks.check(name, observed.ready)
            status = await self._ready_status(name, status, observed)
            if (started_at := self._wake_started_at.pop(name, None)) is not None:
                await self._lookup.record_wake(model.id, time.monotonic() - started_at)
                await asyncio.to_thread(self._transitions.scale_to_configured, model, observed)
        if status.phase is Phase.STARTING and observed.service is not None:
            await asyncio.to_thread(self._transitions.adapter_secrets.make_again, observed.service, served)
        self._notify_observers(name, status, served.ids)
        return status

    def _notify_observers(self, name: str, status: Status, model_ids: list[str]) -> None:
        """Notify observers if the phase or the endpoints differ from the last ones."""
        last = self._phases.get(name)
        self._phases[name] = (status.phase, status.replicas, model_ids)
        if last is None or last[:2] != (status.phase, status.replicas):
            for observer in self._observers:
                for model_id in model_ids:
                    observer(model_id, status)

    async def _ready_status(self, name: str, status: Status, observed: ObservedModel) -> Status:
        endpoint = self._addresses.of_model(observed)
        if endpoint is None:
            return replace(status, phase=Phase.LOADING, progress=0.97, message="waiting for its Service")
        metrics = await self._engine_metrics(name, observed)
        return replace(
            status,
            endpoint=endpoint,
            replicas=tuple(sorted(map(self._addresses.of_pod, observed.ready))) if len(observed.ready) > 1 else (),
            capacity=capacity(self._settings) * len(observed.ready),
            requests_running=metrics.running,
            requests_waiting=metrics.waiting,
            generation_tokens=metrics.generation_tokens,
        )

    async def _engine_metrics(self, name: str, observed: ObservedModel) -> EngineMetrics:
        """The summed metrics of a model's engine replicas, cached for two seconds."""
        read_at, cached = self._metrics.get(name, (float("-inf"), EngineMetrics()))
        if time.monotonic() - read_at < _LIST_SECONDS:
            return cached
        read = await asyncio.gather(
            *(read_metrics(self._client, self._addresses.of_pod(pod)) for pod in observed.ready)
        )
        known_metrics = [each for each in read if each is not None]
        cached = EngineMetrics(
            running=sum(each.running for each in known_metrics),
            waiting=sum(each.waiting for each in known_metrics),
            generation_tokens=sum(each.generation_tokens for each in known_metrics),
            prompt_tokens=sum(each.prompt_tokens for each in known_metrics),
        )
        self._metrics[name] = (time.monotonic(), cached)
        return cached

    async def _list(self) -> dict[str, Status]:
        """The statuses of models that are not asleep; only these are looked up in the registry."""
        models = {_name(observed): observed for observed in await asyncio.to_thread(self._reader.read_all)}
        self._retain_only(models)
        awake = {name: observed for name, observed in models.items() if not observed.asleep or name in self._rejections}
        for name, (phase, _, model_ids) in list(self._phases.items()):
            if name not in awake and phase is not Phase.ASLEEP:
                self._notify_observers(name, Status(Phase.ASLEEP), model_ids)
        keys = {name: engine_key(_service(observed)) for name, observed in awake.items()}
        waking = {keys[name][0] for name, observed in awake.items() if not observed.ready}
        served = await self._lookup.engines(set(keys.values()), waking=waking)
        found: dict[str, Status] = {}

        async def add_status(name: str, observed: ObservedModel) -> None:
            if (served_engine := served.get(keys[name])) is None or self._name(served_engine.engine) != name:
                return  # not registered yet, or deleted
            self._standby.reconcile(name, observed.pods)
            try:
                status = await self._full_status(served_engine, observed)
            except (PlatformError, ClusterError):
                _log.warning("the status of %s cannot be read now", served_engine.engine.id, exc_info=True)
                return
            if status.phase is not Phase.ASLEEP:
                found.update(dict.fromkeys(served_engine.ids, status))

        await _run_bounded(add_status(name, observed) for name, observed in awake.items())
        self._cached_list = (time.monotonic(), found)
        return found

    def _retain_only(self, names: Iterable[str]) -> None:
        """Drop the cached state of all models but these."""
        kept = set(names)
        self._answer_checks.retain_only(kept)
        for name in self._phases.keys() - kept:
            del self._phases[name]
        for name in self._metrics.keys() - kept:
            del self._metrics[name]
        for name in self._observations.keys() - kept:
            del self._observations[name]

    async def _sweep(self) -> None:
        models = await asyncio.to_thread(self._reader.read_all)
        others = {
            _name(observed): model_id_of(service)
            for observed in models
            if not is_managed(service := _service(observed))
        }
        await self._lookup.import_existing(others)
        await self._queues.delete_unused(asyncio.to_thread, self._lookup.projects)
        await asyncio.to_thread(self._standby.release_abandoned, time.time())
        keys = {_name(observed): engine_key(_service(observed)) for observed in models}
        relevant = [observed for observed in models if not observed.asleep or keys[_name(observed)][1] is not None]
        served = await self._lookup.engines({keys[_name(observed)] for observed in relevant})
        await _run_bounded(self._sweep_one(observed, served.get(keys[_name(observed)])) for observed in relevant)

    async def _sweep_one(self, observed: ObservedModel, served: ServedEngine | None) -> None:
        name, service = _name(observed), _service(observed)
        try:
            if engine_key(service)[1] is not None and (served is None or not served.adapters):
                await asyncio.to_thread(self._transitions.delete, service)  # its last adapter was deleted
            elif served is None:
                # No request can reach it, and the event that should have deleted it may be lost.
                if not await self._registered(model_id_of(service), service):
                    await asyncio.to_thread(self._transitions.delete, service)
            elif served is not None and not is_same_registration(service, served.engine):
                await asyncio.to_thread(
                    self._transitions.delete, service
                )  # it belongs to a deleted model of the same id
            elif served is not None and self._name(served.engine) == name:
                await self._sleep_if_idle(name, served, observed)
        except (PlatformError, ClusterError):
            _log.warning("whether %s is idle cannot be read now", model_id_of(service), exc_info=True)

    def _name(self, model: EngineModel) -> str:
        return object_name(model, self._settings.namespace)

    async def _sleep_if_idle(self, name: str, served: ServedEngine, observed: ObservedModel) -> None:
        model = served.engine
        if model.blocked and observed.replicas:
            await asyncio.to_thread(self._transitions.sleep, name)
            return
        if not self._settings.idle_seconds or model.keep_awake or not observed.ready or observed.deployment is None:
            return
        await asyncio.to_thread(self._transitions.scale_to_configured, model, observed)
        self._metrics.pop(name, None)
        if (await self._engine_metrics(name, observed)).busy:
            return
        # Queried last, so that it includes requests that arrived meanwhile.
        last = await self._lookup.idle_since(served.ids)
        if last is None or time.time() - max(last, observed.ready_since) < self._settings.idle_seconds:
            return
        try:
            await asyncio.to_thread(self._transitions.sleep, name, observed.deployment["metadata"]["resourceVersion"])
        except Conflict:
            _log.info("%s changed while it was to be put to sleep: it stays awake", model.id)
        self._observations.pop(name, None)


async def _run_bounded(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all, at most `_CONCURRENCY` at a time; raises the first error when all are done."""
    semaphore = asyncio.Semaphore(_CONCURRENCY)

    async def one(each: Coroutine[Any, Any, None]) -> None:
        async with semaphore:
            await each

    results = await asyncio.gather(*(one(each) for each in work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _service(observed: ObservedModel) -> dict[str, Any]:
    assert observed.service is not None
    return observed.service


def _name(observed: ObservedModel) -> str:
    return str(_service(observed)["metadata"]["name"])


def _rejection_message(error: Exception) -> str:
    """The status message for a wake that the cluster rejected."""
    if isinstance(error, Conflict) and error.causes:
        owned = ", ".join(f"{cause.field} (set by {cause.owner})" for cause in error.causes)
        return f"The InferenceService has fields that others have set: {owned}. Remove them there, or let us own them."
    return f"The cluster refuses the model: {error}"
