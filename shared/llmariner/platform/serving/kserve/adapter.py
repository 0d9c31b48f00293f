"""The serving port on InferenceServices.

Who may change what: the waker takes a Deployment from no replicas to some, an autoscaler (KEDA, or an HPA) moves it between
one and many, the sleeper takes it to none, and only from the very state in which it saw nothing in flight. Nothing is
remembered but for a moment: any process with this adapter gives the same answers, and `kubectl` shows what they rest on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from llmariner.client import Client
from llmariner.errors import ModelNotFound, PlatformError
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Conflict, NotFound
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES, PODS, SERVICES
from llmariner.platform.serving import ADOPTED, EngineModel, Phase, Status
from llmariner.platform.serving.engine_metrics import EngineMetrics, read_metrics
from llmariner.platform.serving.kserve.autoscaling import Autoscaling
from llmariner.platform.serving.kserve.objects import (
    ENGINE,
    POD_OF,
    capacity,
    deployment_of,
    inference_service,
    is_of,
    model_of,
    object_name,
    ours,
)
from llmariner.platform.serving.kserve.phases import Seen, gated, is_leaving, status_of
from llmariner.platform.serving.kserve.queues import ProjectQueues, queue_of
from llmariner.platform.serving.kserve.standby import StandbyPods
from llmariner.settings import KServeSettings

__all__ = ["Directory", "KServeServing"]

_log = logging.getLogger(__name__)
# How long what was read stands: those who wait ask ten times a second, for all of them together one read is enough.
_FRESH_SECONDS = 0.5
_LIST_SECONDS = 2.0
_STOP = "serving.kserve.io/stop"


class Directory(Protocol):
    """What the adapter must know of models, and tell of them; each call may ask a database."""

    async def find(self, model_id: str) -> EngineModel:
        """A model by its id. ModelNotFound."""

    async def adapters(self, model_id: str) -> tuple[EngineModel, ...]:
        """The adapters of a base model, in an order that does not change."""

    async def projects(self) -> set[str]:
        """The projects that have a model of their own."""

    async def woke(self, model_id: str, seconds: float) -> None:
        """A wake of a model took so long."""

    async def idle_since(self, model_id: str) -> float | None:
        """When it, or an adapter of it, was last asked for, in seconds since 1970 (0: never); None: it is right now."""

    async def adopt(self, services: Mapping[str, str], *, looked_at: str | None = None) -> None:
        """All InferenceServices that are not ours, model id → name; what was adopted and is not among them is gone.

        `looked_at`: only that one was looked at.
        """


class KServeServing:
    """See the package, and `platform.serving.Serving` for the port."""

    def __init__(self, cluster: Cluster, settings: KServeSettings, directory: Directory) -> None:
        self._cluster = cluster
        self._settings = settings
        self._directory = directory
        self._client = Client()
        self._queues = ProjectQueues(cluster, settings)
        self._autoscaling = Autoscaling(cluster, settings)
        self._standby = StandbyPods(cluster, self._client, settings)
        self._observers: list[Callable[[str, Status], None]] = []
        self._phases: dict[str, tuple[Phase, tuple[str, ...]]] = {}
        self._looks: dict[str, tuple[float, asyncio.Task[Seen]]] = {}
        self._listed: tuple[float, dict[str, Status]] = (float("-inf"), {})
        self._metrics: dict[str, tuple[float, EngineMetrics]] = {}
        self._woken: dict[str, float] = {}
        self._refused: dict[str, str] = {}

    async def status(self, model_id: str) -> Status:
        """See the port. An adapter has its base's state."""
        model = await self._base(await self._directory.find(model_id))
        name = object_name(model)
        seen = await self._look(name)
        self._standby.attend(name, seen.pods)
        return await self._told(model, seen)

    async def statuses(self) -> dict[str, Status]:
        """See the port."""
        at, known = self._listed
        if time.monotonic() - at > _LIST_SECONDS:
            known = await self._list()
            self._listed = (time.monotonic(), known)
        return known

    async def wake(self, model_id: str) -> None:
        """See the port."""
        model = await self._base(await self._directory.find(model_id))
        name = object_name(model)
        seen = await self._look(name)
        status = status_of(seen, model, now=time.time())
        if not is_of(seen.service, model):
            status = Status(Phase.STOPPING)
        if model.blocked or status.phase not in (Phase.ASLEEP, Phase.STOPPING, Phase.FAILED):
            return
        if seen.service is not None and not is_of(seen.service, model):
            await asyncio.to_thread(self._delete, seen.service)
            self._looks.pop(name, None)
            return  # wished again by whoever waits
        adapters = await self._directory.adapters(model.id)
        try:
            self._standby.attend(name, await asyncio.to_thread(self._wake, model, adapters, seen))
            self._refused.pop(name, None)
        except (ClusterError, ValueError) as error:
            self._refused[name] = _words(error)
            _log.warning("waking %s: %s", model.id, error)
        if status.phase is not Phase.FAILED:
            self._woken.setdefault(name, time.monotonic())
        self._looks.pop(name, None)

    async def sleep(self, model_id: str) -> None:
        """See the port."""
        model = await self._base(await self._directory.find(model_id))
        name = object_name(model)
        self._refused.pop(name, None)
        self._woken.pop(name, None)
        await asyncio.to_thread(self._sleep, name, None)
        self._looks.pop(name, None)
        self._listed = (float("-inf"), {})

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port. What somebody else made stays."""
        if folder.startswith(ADOPTED):
            return
        name = object_name(EngineModel(model_id, folder, "generate", 0))
        service = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, name)
        if service is not None and not await self._registered(model_id, service):
            await asyncio.to_thread(self._delete, service)
        await self._queues.drop_unused(asyncio.to_thread, self._directory.projects)
        self._looks.pop(name, None)

    async def adopt(self, service: str) -> None:
        """See the port."""
        found = await asyncio.to_thread(self._cluster.get, INFERENCE_SERVICES, self._settings.namespace, service)
        others = {} if found is None or ours(found) else {model_of(found): service}
        await self._directory.adopt(others, looked_at=service)

    async def tidy(self) -> None:
        """See the port: models idle for long go to sleep, those that somebody else made are made known."""
        services = (await asyncio.to_thread(self._cluster.list, INFERENCE_SERVICES, self._settings.namespace)).items
        others = {model_of(each): each["metadata"]["name"] for each in services if not ours(each)}
        await self._directory.adopt(others)
        await self._queues.drop_unused(asyncio.to_thread, self._directory.projects)
        await asyncio.to_thread(self._standby.release_abandoned, time.time())
        if not self._settings.idle_seconds:
            return
        for service in services:
            try:
                await self._sleep_if_idle(service)
            except (PlatformError, ClusterError):
                _log.warning("whether %s is idle can't be told now", model_of(service), exc_info=True)

    def watch(self, observer: Callable[[str, Status], None]) -> None:
        """See the port: changes are seen as often as somebody asks."""
        self._observers.append(observer)

    async def close(self) -> None:
        """See the port: engines are the cluster's, and go on."""
        await self._standby.close()
        self._client.close()
        await asyncio.to_thread(self._cluster.close)

    def _delete(self, service: dict[str, Any]) -> None:
        """An InferenceService of ours, that very one."""
        name, uid = service["metadata"]["name"], service["metadata"]["uid"]
        if ours(service):
            with contextlib.suppress(Conflict):  # it is another by now
                self._cluster.delete(INFERENCE_SERVICES, self._settings.namespace, name, uid=uid)

    async def _registered(self, model_id: str, service: dict[str, Any]) -> bool:
        """Whether an InferenceService is that of the model which the registry has under that id now."""
        try:
            return is_of(service, await self._directory.find(model_id))
        except ModelNotFound:
            return False

    async def _base(self, model: EngineModel) -> EngineModel:
        return await self._directory.find(model.base) if model.base else model

    async def _look(self, name: str) -> Seen:
        """The objects of one model: read once for all who ask within a moment."""
        at, task = self._looks.get(name, (float("-inf"), None))
        if task is None or time.monotonic() - at > _FRESH_SECONDS or (task.done() and task.exception()):
            task = asyncio.create_task(asyncio.to_thread(self._read, name))
            self._looks[name] = (time.monotonic(), task)
        return await asyncio.shield(task)

    def _read(self, name: str) -> Seen:
        cluster, namespace = self._cluster, self._settings.namespace
        service = cluster.get(INFERENCE_SERVICES, namespace, name)
        if service is None:
            return Seen()
        deployment = cluster.get(DEPLOYMENTS, namespace, deployment_of(name))
        pods = cluster.list(PODS, namespace, labels={POD_OF: name}).items
        return Seen(service, deployment, pods, self._waiting(pods))

    def _waiting(self, pods: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The workloads of the pool that one of these pods waits in for quota."""
        queue = next((queue_of(pod) for pod in pods if gated(pod)), None)
        return self._queues.waiting(queue) if queue is not None else ()

    async def _told(self, model: EngineModel, seen: Seen) -> Status:
        """The whole status: phase, endpoints, what the engines are doing. Observers hear of a change of the first two."""
        name = object_name(model)
        status = status_of(seen, model, now=time.time())
        if not is_of(seen.service, model):
            status = Status(Phase.STOPPING, message="the engine of a deleted model of this id has not ended yet")
        if (refused := model.blocked or self._refused.get(name)) and status.phase in (Phase.ASLEEP, Phase.STOPPING):
            status = Status(Phase.FAILED, message=refused)
        if status.phase is Phase.READY:
            status = await self._serving_now(name, status, seen)
            if (began := self._woken.pop(name, None)) is not None:
                await self._directory.woke(model.id, time.monotonic() - began)
                await asyncio.to_thread(self._complete, model, seen)
        if self._phases.get(model.id) != (now := (status.phase, status.replicas)):
            self._phases[model.id] = now
            for observer in self._observers:
                observer(model.id, status)
        return status

    async def _serving_now(self, name: str, status: Status, seen: Seen) -> Status:
        endpoint = await asyncio.to_thread(self._endpoint, name, seen)
        if endpoint is None:
            return replace(status, phase=Phase.LOADING, progress=0.97, message="waiting for its Service")
        metrics = await self._engines(name, seen)
        return replace(
            status,
            endpoint=endpoint,
            replicas=tuple(sorted(map(_engine_url, seen.ready))) if len(seen.ready) > 1 else (),
            capacity=capacity(self._settings) * len(seen.ready),
            requests_running=metrics.running,
            requests_waiting=metrics.waiting,
            generation_tokens=metrics.generation_tokens,
        )

    def _endpoint(self, name: str, seen: Seen) -> str | None:
        """The address of the model's Service: one that needs no name server, and stays when pods come and go."""
        service = self._cluster.get(SERVICES, self._settings.namespace, deployment_of(name))
        if service is None:
            return None
        address = service["spec"].get("clusterIP", "None")
        if address != "None":
            return f"http://{address}:{service['spec']['ports'][0]['port']}"
        return _engine_url(seen.ready[0])

    async def _engines(self, name: str, seen: Seen) -> EngineMetrics:
        """What all engines of a model are doing, together; read every other second."""
        at, known = self._metrics.get(name, (float("-inf"), EngineMetrics()))
        if time.monotonic() - at < _LIST_SECONDS:
            return known
        read = await asyncio.gather(*(read_metrics(self._client, _engine_url(pod)) for pod in seen.ready))
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
        found: dict[str, Status] = {}
        for seen in await asyncio.to_thread(self._read_all):
            assert seen.service is not None
            try:
                model = await self._directory.find(model_of(seen.service))
                self._standby.attend(object_name(model), seen.pods)
                status = await self._told(model, seen)
            except PlatformError:
                continue  # not registered (yet), or deleted
            if status.phase is not Phase.ASLEEP:
                found[model.id] = status
        return found

    def _read_all(self) -> list[Seen]:
        """The objects of every model, by one list of each kind: every copy of a function asks every other second."""
        cluster, namespace = self._cluster, self._settings.namespace
        services = cluster.list(INFERENCE_SERVICES, namespace).items
        deployments = {each["metadata"]["name"]: each for each in cluster.list(DEPLOYMENTS, namespace).items}
        pods: dict[str, list[dict[str, Any]]] = {}
        for pod in cluster.list(PODS, namespace).items:
            pods.setdefault(pod["metadata"].get("labels", {}).get(POD_OF, ""), []).append(pod)
        names = [(each, each["metadata"]["name"]) for each in services]
        return [
            Seen(each, deployments.get(deployment_of(name)), found := pods.get(name, []), self._waiting(found))
            for each, name in names
        ]

    def _wake(self, model: EngineModel, adapters: tuple[EngineModel, ...], seen: Seen) -> list[dict[str, Any]]:
        """Bring the objects to one replica; returns the pod that stood by for it, if one did."""
        ends = all(is_leaving(pod) for pod in seen.pods)
        if model.folder.startswith(ADOPTED) or not ends or (reserved := self._standby.reserve(model, adapters)) is None:
            self._scale_up(model, adapters, seen)
            return []
        try:
            self._scale_up(model, adapters, seen)
        except ClusterError:
            self._standby.release(reserved)
            raise
        return [reserved]

    def _scale_up(self, model: EngineModel, adapters: tuple[EngineModel, ...], seen: Seen) -> None:
        name, namespace = object_name(model), self._settings.namespace
        service = seen.service
        if not model.folder.startswith(ADOPTED):
            queue = self._queues.of(model.project)
            service = self._cluster.apply(inference_service(model, adapters, self._settings, queue))
        elif service is None:
            raise NotFound(f"The InferenceService {namespace}/{name} is gone.")
        elif not _scaled_by_us(service):
            self._stop(name, "false")
            return
        if seen.deployment is not None and seen.deployment["spec"].get("replicas", 1) == 0:
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_of(name), max(1, model.replicas))
        if ours(service):
            self._autoscaling.settle(model, service)

    def _sleep(self, name: str, resource_version: str | None) -> None:
        """To no replicas; Conflict where the Deployment is not what it was at `resource_version`."""
        namespace = self._settings.namespace
        service = self._cluster.get(INFERENCE_SERVICES, namespace, name)
        if service is None:
            return
        if not ours(service) and not _scaled_by_us(service):
            self._stop(name, "true")
            return
        try:
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_of(name), 0, resource_version=resource_version)
        except NotFound:
            return

    def _stop(self, name: str, value: str) -> None:
        """KServe's own switch, for what it scales itself: the one field of another's object that we ever own."""
        metadata = {"name": name, "namespace": self._settings.namespace, "annotations": {_STOP: value}}
        kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
        self._cluster.apply({**kind, "metadata": metadata})

    def _complete(self, model: EngineModel, seen: Seen) -> None:
        """As many replicas as one of our models has when it is awake: KServe makes the first Deployment with one."""
        if seen.deployment is None or seen.service is None or not ours(seen.service):
            return
        if 0 < seen.replicas < model.replicas:
            name, version = deployment_of(object_name(model)), seen.deployment["metadata"]["resourceVersion"]
            try:
                self._cluster.scale(
                    DEPLOYMENTS, self._settings.namespace, name, model.replicas, resource_version=version
                )
            except Conflict:
                _log.info("%s changed while its replicas were to be completed: later", model.id)

    async def _sleep_if_idle(self, service: dict[str, Any]) -> None:
        model = await self._directory.find(model_of(service))
        name = object_name(model)
        seen = await asyncio.to_thread(self._read, name)
        if model.blocked and seen.replicas:
            await asyncio.to_thread(self._sleep, name, None)
            return
        if model.keep_awake or not seen.ready or seen.deployment is None:
            return
        await asyncio.to_thread(self._complete, model, seen)
        self._metrics.pop(name, None)
        if (await self._engines(name, seen)).busy:
            return
        # Asked last of all: a request that came meanwhile is in it.
        last = await self._directory.idle_since(model.id)
        if last is None or time.time() - max(last, seen.ready_since) < self._settings.idle_seconds:
            return
        try:
            await asyncio.to_thread(self._sleep, name, seen.deployment["metadata"]["resourceVersion"])
        except Conflict:
            _log.info("%s changed while it was to be put to sleep: it stays awake", model.id)
        self._looks.pop(name, None)


def _scaled_by_us(service: dict[str, Any]) -> bool:
    """Whether KServe leaves the number of replicas to others."""
    annotations = service["metadata"].get("annotations", {})
    mode = annotations.get("serving.kserve.io/deploymentMode"), annotations.get("serving.kserve.io/autoscalerClass")
    return mode == ("Standard", "external")


def _engine_url(pod: dict[str, Any]) -> str:
    container = next((each for each in pod["spec"]["containers"] if each["name"] == ENGINE), None)
    container = container or pod["spec"]["containers"][0]
    port = container.get("ports", [{"containerPort": 8080}])[0]["containerPort"]
    return f"http://{pod['status']['podIP']}:{port}"


def _words(error: Exception) -> str:
    """What a waiting caller's administrator is told of a refusal."""
    if isinstance(error, Conflict) and error.causes:
        owned = ", ".join(f"{cause.field} (set by {cause.owner})" for cause in error.causes)
        return f"The InferenceService has fields that others have set: {owned}. Remove them there, or let us own them."
    return f"The cluster refuses the model: {error}"
