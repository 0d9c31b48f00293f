"""The serving port on InferenceServices.

Who may change what: the waker takes a Deployment from no replicas to some, an autoscaler (KEDA, or an HPA) moves it between
one and many, the sleeper takes it to none, and only from the very state in which it saw nothing in flight. Nothing is
remembered but for a moment: any process with this adapter gives the same answers, and `kubectl` shows what they rest on.
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
from llmariner.platform.serving.kserve.cluster_reader import ClusterReader, endpoint_of, engine_url
from llmariner.platform.serving.kserve.first_answers import FirstAnswers
from llmariner.platform.serving.kserve.model_lookup import Directory, Served
from llmariner.platform.serving.kserve.objects import (
    capacity,
    engine_key,
    is_anothers,
    is_of,
    model_of,
    object_name,
    ours,
)
from llmariner.platform.serving.kserve.phases import Seen, status_of
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.platform.serving.kserve.standby import StandbyPods
from llmariner.platform.serving.kserve.transitions import Transitions
from llmariner.settings import KServeSettings

__all__ = ["KServeServing"]

_log = logging.getLogger(__name__)
# How long what was read stands: those who wait ask ten times a second, for all of them together one read is enough.
_FRESH_SECONDS = 0.5
_LIST_SECONDS = 2.0
# Models that a list or a sweep sees to at the same time: each may ask engines, the cluster and the database.
_AT_ONCE = 16
_SAME_NAME = (
    "Another model's object on the cluster has the name that this one's would have: register it under another name."
)


class KServeServing:
    """See the package, and `platform.serving.Serving` for the port."""

    def __init__(self, cluster: Cluster, settings: KServeSettings, directory: Directory) -> None:
        self._cluster = cluster
        self._settings = settings
        self._directory = directory
        self._client = Client()
        self._queues = ProjectQueues(cluster, settings)
        self._standby = StandbyPods(cluster, self._client, settings)
        self._first_answers = FirstAnswers(cluster, self._client, settings.namespace)
        self._reader = ClusterReader(cluster, settings, self._queues)
        self._transitions = Transitions(cluster, settings, self._queues, self._standby)
        self._observers: list[Callable[[str, Status], None]] = []
        self._phases: dict[str, tuple[Phase, tuple[str, ...], list[str]]] = {}
        self._looks: dict[str, tuple[float, asyncio.Task[Seen]]] = {}
        self._listed: tuple[float, dict[str, Status]] = (float("-inf"), {})
        self._finds: SingleFlight[Served] = SingleFlight()
        self._lists: SingleFlight[dict[str, Status]] = SingleFlight()
        self._sweeps: SingleFlight[None] = SingleFlight()
        self._metrics: dict[str, tuple[float, EngineMetrics]] = {}
        self._woken: dict[str, float] = {}
        self._refused: dict[str, str] = {}

    async def status(self, model_id: str) -> Status:
        """See the port. An adapter has the state of the engine that serves it."""
        served = await self._finds.do(model_id, partial(self._find, model_id))
        if served.refused:
            return Status(Phase.FAILED, message=served.refused)
        name = object_name(served.engine)
        seen = await self._look(name)
        if is_anothers(seen.service, served.engine):
            return Status(Phase.FAILED, message=_SAME_NAME)
        self._standby.attend(name, seen.pods)
        return await self._told(served, seen)

    async def statuses(self) -> dict[str, Status]:
        """See the port. However many ask, one list is under way."""
        at, known = self._listed
        if time.monotonic() - at <= _LIST_SECONDS:
            return known
        return await self._lists.do("list", self._list)

    async def wake(self, model_id: str) -> None:
        """See the port."""
        served = await self._directory.engine(model_id)
        model = served.engine
        name = object_name(model)
        seen = await self._look(name)
        if model.blocked or served.refused or is_anothers(seen.service, model):
            return
        if seen.service is not None and not is_of(seen.service, model):
            await asyncio.to_thread(self._transitions.delete, seen.service)
            self._looks.pop(name, None)
            return  # wished again by whoever waits
        status = status_of(seen, model, now=time.time())
        if status.phase not in (Phase.ASLEEP, Phase.STOPPING, Phase.FAILED):
            return
        try:
            self._standby.attend(name, await asyncio.to_thread(self._transitions.wake, served, seen))
            self._refused.pop(name, None)
        except (ClusterError, ValueError) as error:
            self._refused[name] = _words(error)
            _log.warning("waking %s: %s", model.id, error)
        if status.phase is not Phase.FAILED:
            self._woken.setdefault(name, time.monotonic())
        self._looks.pop(name, None)

    async def sleep(self, model_id: str) -> None:
        """See the port."""
        model = (await self._directory.engine(model_id)).engine
        name = object_name(model)
        if is_anothers((await self._look(name)).service, model):
            return
        self._refused.pop(name, None)
        self._woken.pop(name, None)
        await asyncio.to_thread(self._transitions.sleep, name)
        self._looks.pop(name, None)
        self._listed = (float("-inf"), {})

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port. What somebody else made stays."""
        if folder.startswith(IMPORTED_SCHEME):
            return
        gone = EngineModel(model_id, folder, "generate", 0)
        name = object_name(gone)
        service = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, name)
        if service is not None and not is_anothers(service, gone) and not await self._registered(model_id, service):
            await asyncio.to_thread(self._transitions.delete, service)
        await self._queues.drop_unused(asyncio.to_thread, self._directory.projects)
        self._looks.pop(name, None)

    async def import_existing(self, service: str) -> None:
        """See the port."""
        found = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, service)
        others = {} if found is None or ours(found) else {service: model_of(found)}
        await self._directory.import_existing(others, only=service)

    async def reconcile(self) -> None:
        """See the port: models idle for long go to sleep, those that somebody else made are made known.

        A sweep that is asked for while one is under way is that one.
        """
        await self._sweeps.do("sweep", self._sweep)

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """See the port: changes are seen as often as somebody asks."""
        self._observers.append(observer)

    async def close(self) -> None:
        """See the port: engines are the cluster's, and go on."""
        await self._standby.close()
        await self._first_answers.close()
        self._client.close()
        await asyncio.to_thread(self._cluster.close)

    async def _registered(self, model_id: str, service: dict[str, Any]) -> bool:
        """Whether an InferenceService is that of the model which the registry has under that id now."""
        try:
            return is_of(service, (await self._directory.engine(model_id)).engine)
        except ModelNotFound:
            return False

    async def _find(self, model_id: str) -> Served:
        return await self._directory.engine(model_id)

    async def _look(self, name: str) -> Seen:
        """The objects of one model: read once for all who ask within a moment."""
        at, task = self._looks.get(name, (float("-inf"), None))
        if task is None or time.monotonic() - at > _FRESH_SECONDS or (task.done() and task.exception()):
            task = asyncio.create_task(asyncio.to_thread(self._reader.one, name))
            self._looks[name] = (time.monotonic(), task)
        return await asyncio.shield(task)

    async def _told(self, served: Served, seen: Seen) -> Status:
        """The whole status: phase, endpoints, what the engines are doing. Observers hear of a change of the first two."""
        model = served.engine
        name = object_name(model)
        status = status_of(seen, model, now=time.time())
        if not is_of(seen.service, model):
            status = Status(Phase.STOPPING, message="the engine of a deleted model of this id has not ended yet")
        if (refused := model.blocked or self._refused.get(name)) and status.phase in (Phase.ASLEEP, Phase.STOPPING):
            status = Status(Phase.FAILED, message=refused)
        if status.phase is Phase.READY:
            self._first_answers.look(name, seen.ready)
            status = await self._serving_now(name, status, seen)
            if (began := self._woken.pop(name, None)) is not None:
                await self._directory.record_wake(model.id, time.monotonic() - began)
                await asyncio.to_thread(self._transitions.complete, model, seen)
        self._notice(name, status, served.ids)
        return status

    def _notice(self, name: str, status: Status, model_ids: list[str]) -> None:
        """Tell observers of a phase, or of endpoints, that were not there before."""
        known = self._phases.get(name)
        self._phases[name] = (status.phase, status.replicas, model_ids)
        if known is None or known[:2] != (status.phase, status.replicas):
            for observer in self._observers:
                for model_id in model_ids:
                    observer(model_id, status)

    async def _serving_now(self, name: str, status: Status, seen: Seen) -> Status:
        endpoint = endpoint_of(seen)
        if endpoint is None:
            return replace(status, phase=Phase.LOADING, progress=0.97, message="waiting for its Service")
        metrics = await self._engines(name, seen)
        return replace(
            status,
            endpoint=endpoint,
            replicas=tuple(sorted(map(engine_url, seen.ready))) if len(seen.ready) > 1 else (),
            capacity=capacity(self._settings) * len(seen.ready),
            requests_running=metrics.running,
            requests_waiting=metrics.waiting,
            generation_tokens=metrics.generation_tokens,
        )

    async def _engines(self, name: str, seen: Seen) -> EngineMetrics:
        """What all engines of a model are doing, together; read every other second."""
        at, known = self._metrics.get(name, (float("-inf"), EngineMetrics()))
        if time.monotonic() - at < _LIST_SECONDS:
            return known
        read = await asyncio.gather(*(read_metrics(self._client, engine_url(pod)) for pod in seen.ready))
        told = [each for each in read if each is not None]
        known = EngineMetrics(
            running=sum(each.running for each in told),
            waiting=sum(each.waiting for each in told),
            generation_tokens=sum(each.generation_tokens for each in told),
            prompt_tokens=sum(each.prompt_tokens for each in told),
        )
        self._metrics[name] = (time.monotonic(), known)
        return known

    async def _list(self) -> dict[str, Status]:
        """Every model that is not asleep; of those that are nobody asks anything."""
        everything = {_name(seen): seen for seen in await asyncio.to_thread(self._reader.all)}
        self._forget_all_but(everything)
        awake = {name: seen for name, seen in everything.items() if not seen.asleep or name in self._refused}
        for name, (phase, _, model_ids) in list(self._phases.items()):
            if name not in awake and phase is not Phase.ASLEEP:
                self._notice(name, Status(Phase.ASLEEP), model_ids)
        keys = {name: engine_key(_service(seen)) for name, seen in awake.items()}
        waking = {keys[name][0] for name, seen in awake.items() if not seen.ready}
        served = await self._directory.engines(set(keys.values()), waking=waking)
        found: dict[str, Status] = {}

        async def tell(name: str, seen: Seen) -> None:
            if (mine := served.get(keys[name])) is None or object_name(mine.engine) != name:
                return  # not registered (yet), or deleted
            self._standby.attend(name, seen.pods)
            try:
                status = await self._told(mine, seen)
            except (PlatformError, ClusterError):
                _log.warning("how %s is can't be told now", mine.engine.id, exc_info=True)
                return
            if status.phase is not Phase.ASLEEP:
                found.update(dict.fromkeys(mine.ids, status))

        await _bounded(tell(name, seen) for name, seen in awake.items())
        self._listed = (time.monotonic(), found)
        return found

    def _forget_all_but(self, names: Iterable[str]) -> None:
        """What is known of models whose objects are gone."""
        kept = set(names)
        self._first_answers.forget_all_but(kept)
        for name in self._phases.keys() - kept:
            del self._phases[name]
        for name in self._metrics.keys() - kept:
            del self._metrics[name]
        for name in self._looks.keys() - kept:
            del self._looks[name]

    async def _sweep(self) -> None:
        everything = await asyncio.to_thread(self._reader.all)
        others = {_name(seen): model_of(service) for seen in everything if not ours(service := _service(seen))}
        await self._directory.import_existing(others)
        await self._queues.drop_unused(asyncio.to_thread, self._directory.projects)
        await asyncio.to_thread(self._standby.release_abandoned, time.time())
        keys = {_name(seen): engine_key(_service(seen)) for seen in everything}
        concerned = [seen for seen in everything if not seen.asleep or keys[_name(seen)][1] is not None]
        served = await self._directory.engines({keys[_name(seen)] for seen in concerned})
        await _bounded(self._sweep_one(seen, served.get(keys[_name(seen)])) for seen in concerned)

    async def _sweep_one(self, seen: Seen, served: Served | None) -> None:
        name, service = _name(seen), _service(seen)
        try:
            if engine_key(service)[1] is not None and (served is None or not served.adapters):
                await asyncio.to_thread(self._transitions.delete, service)  # the last adapter is gone
            elif served is None:
                # Nobody can ask for it, and whoever was to end it was never told: an event may be lost.
                if not await self._registered(model_of(service), service):
                    await asyncio.to_thread(self._transitions.delete, service)
            elif served is not None and not is_of(service, served.engine):
                await asyncio.to_thread(self._transitions.delete, service)  # of a model that had this id before
            elif served is not None and object_name(served.engine) == name:
                await self._sleep_if_idle(name, served, seen)
        except (PlatformError, ClusterError):
            _log.warning("whether %s is idle can't be told now", model_of(service), exc_info=True)

    async def _sleep_if_idle(self, name: str, served: Served, seen: Seen) -> None:
        model = served.engine
        if model.blocked and seen.replicas:
            await asyncio.to_thread(self._transitions.sleep, name)
            return
        if not self._settings.idle_seconds or model.keep_awake or not seen.ready or seen.deployment is None:
            return
        await asyncio.to_thread(self._transitions.complete, model, seen)
        self._metrics.pop(name, None)
        if (await self._engines(name, seen)).busy:
            return
        # Asked last of all: a request that came meanwhile is in it.
        last = await self._directory.idle_since(served.ids)
        if last is None or time.time() - max(last, seen.ready_since) < self._settings.idle_seconds:
            return
        try:
            await asyncio.to_thread(self._transitions.sleep, name, seen.deployment["metadata"]["resourceVersion"])
        except Conflict:
            _log.info("%s changed while it was to be put to sleep: it stays awake", model.id)
        self._looks.pop(name, None)


async def _bounded(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it, so many at a time; the first error is raised when all are done."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Coroutine[Any, Any, None]) -> None:
        async with places:
            await each

    results = await asyncio.gather(*(one(each) for each in work), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _service(seen: Seen) -> dict[str, Any]:
    assert seen.service is not None
    return seen.service


def _name(seen: Seen) -> str:
    return str(_service(seen)["metadata"]["name"])


def _words(error: Exception) -> str:
    """What a waiting caller's administrator is told of a refusal."""
    if isinstance(error, Conflict) and error.causes:
        owned = ", ".join(f"{cause.field} (set by {cause.owner})" for cause in error.causes)
        return f"The InferenceService has fields that others have set: {owned}. Remove them there, or let us own them."
    return f"The cluster refuses the model: {error}"
