"""A small cluster: an API server in this process, and a thread that acts as KServe, Deployment controller and kubelet.

Its engines are scripted processes, so that ready pods respond. `tests/cluster` verifies the same phases on a real cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmariner.errors import ModelNotFound
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import (
    CLUSTER_SERVING_RUNTIMES,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    SERVICES,
)
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine
from llmariner.platform.serving.kserve.phases import STANDBY_LABEL
from llmariner.settings import ClusterSettings, KServeSettings

from .driver import ServingDriver

if TYPE_CHECKING:
    from kubernetes_api.caller import Body, Caller
    from kubernetes_api.schemas import Schemas

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_caller = importlib.import_module("..kubernetes_api.caller", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)
_schemas = importlib.import_module("..kubernetes_api.schemas", __package__)

NAMESPACE = "llmariner-models"
SCRIPTED = Path(__file__).parents[1] / "engines" / "scripted.py"


class InMemoryModelLookup:
    """A ModelLookup in memory: models by id, recorded wakes, and the time of each model's last request."""

    def __init__(self, *models: EngineModel) -> None:
        self.registered = {model.id: model for model in models}
        self.wakes: list[tuple[str, float]] = []
        self.last: dict[str, float | None] = {}
        self.adopted: Mapping[str, str] = {}
        self.only: str | None = None
        self.asked: list[int] = []
        """The number of keys in each call of `engines`."""

    async def find(self, model_id: str) -> EngineModel:
        if model_id not in self.registered:
            raise ModelNotFound(model_id)
        return self.registered[model_id]

    async def engine(self, model_id: str) -> ServedEngine:
        model = await self.find(model_id)
        base = self.registered[model.base] if model.base else model
        return self.served(base, model.project if model.project != base.project else None)

    async def engines(
        self, keys: Collection[EngineKey], *, waking: Collection[str] = ()
    ) -> dict[EngineKey, ServedEngine]:
        self.asked.append(len(keys))
        return {key: self.served(self.registered[key[0]], key[1]) for key in keys if key[0] in self.registered}

    def served(self, base: EngineModel, apart: str | None) -> ServedEngine:
        project = base.project if apart is None else apart
        adapters = (model for _, model in sorted(self.registered.items()) if model.base == base.id)
        engine = base if apart is None else replace(base, project=apart, adapters_of=apart)
        return ServedEngine(engine, tuple(model for model in adapters if model.project == project))

    async def projects(self) -> set[str]:
        return {model.project for model in self.registered.values() if model.project is not None}

    async def record_wake(self, model_id: str, seconds: float) -> None:
        self.wakes.append((model_id, seconds))

    async def idle_since(self, model_ids: Collection[str]) -> float | None:
        last = [self.last.get(model_id, 0.0) for model_id in model_ids]
        return None if None in last else max((each or 0.0 for each in last), default=0.0)

    async def import_existing(self, services: Mapping[str, str], *, only: str | None = None) -> None:
        self.adopted, self.only = services, only


class Controllers(threading.Thread):
    """Imitates KServe, Deployment controller and kubelet. `fixed_pod_status`: the status of new pods, which stay in it."""

    def __init__(self, caller: Caller, port: int) -> None:
        super().__init__(daemon=True)
        self.caller = caller
        self.port = port
        self.fixed_pod_status: Body | None = None
        self.gates: list[Body] = []
        self.engine_arguments: list[str] = []
        self.done = threading.Event()
        self.engines: dict[str, subprocess.Popen[bytes]] = {}
        self.extra_steps: list[Callable[[], None]] = []
        """Called in each round, after all reconciliations."""

    def run(self) -> None:
        while not self.done.wait(0.03):
            for service in self.listed(INFERENCE_SERVICES):
                # A conflict with a concurrent change is retried in the next round, as in real controllers.
                with contextlib.suppress(AssertionError):
                    self.reconcile(service)
            for each in self.extra_steps:
                each()
        for engine in self.engines.values():
            engine.kill()
            engine.wait(10)

    def listed(self, resource: Any) -> list[Body]:
        found: list[Body] = self.caller.done("GET", resource.path(NAMESPACE))["items"]
        return found

    def reconcile(self, service: Body) -> None:
        name = service["metadata"]["name"]
        if service["metadata"].get("annotations", {}).get("serving.kserve.io/stop") == "true":
            self.caller.request("DELETE", DEPLOYMENTS.path(NAMESPACE, f"{name}-predictor"))
            self.caller.request("DELETE", REPLICA_SETS.path(NAMESPACE, f"{name}-predictor-1"))
            self.end(name)
            return
        code, deployment = self.caller.request("GET", DEPLOYMENTS.path(NAMESPACE, f"{name}-predictor"))
        if code == 404:
            self.make(service)
        else:
            self.roll_out(service, deployment)
            self.advance_pods(name, deployment)

    def make(self, service: Body) -> None:
        """Create what KServe creates for an InferenceService in Standard mode."""
        metadata = service["metadata"]
        name = f"{metadata['name']}-predictor"
        owned: Body = {"namespace": NAMESPACE}
        owner = {"apiVersion": service["apiVersion"], "kind": service["kind"], "name": metadata["name"]}
        owned |= {"name": name, "ownerReferences": [{**owner, "uid": metadata["uid"]}]}
        labels = {"serving.kserve.io/inferenceservice": metadata["name"], "app": f"isvc.{name}"}
        container: Body = {"name": "kserve-container", "image": "engine", "ports": [{"containerPort": self.port}]}
        container["args"] = self.arguments(service)
        inherited = metadata.get("labels", {})
        template = {"metadata": {"labels": {**inherited, **labels}}, "spec": {"containers": [container]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": labels["app"]}}, "template": template}
        revised = {**owned, "annotations": _REVISION}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": revised, "spec": spec}
        self.caller.make(DEPLOYMENTS, body)
        ports = [{"port": self.port, "targetPort": self.port}]
        spec = {"clusterIP": "127.0.0.1", "ports": ports, "selector": labels}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": owned, "spec": spec}
        self.caller.request("POST", SERVICES.path(NAMESPACE), body)

    def arguments(self, service: Body) -> list[str]:
        """Arguments as KServe merges them: the runtime's, then the model's."""
        model = service["spec"]["predictor"].get("model", {})
        code, runtime = self.caller.request("GET", CLUSTER_SERVING_RUNTIMES.path(None, model.get("runtime", "none")))
        own = runtime["spec"]["containers"][0].get("args", []) if code == 200 else []
        given: list[str] = model.get("args", [])
        return [each.replace("{{.Name}}", service["metadata"]["name"]) for each in own] + given

    def roll_out(self, service: Body, deployment: Body) -> None:
        """Update the Deployment from its InferenceService, and its one ReplicaSet from the Deployment."""
        name = deployment["metadata"]["name"]
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        if container.get("args", []) != (arguments := self.arguments(service)):
            containers = [{**container, "args": arguments}]
            template = {"template": {"spec": {"containers": containers}}}
            deployment = self.caller.patch(DEPLOYMENTS, NAMESPACE, name, {"spec": template})
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        if deployment.get("status", {}).get("observedGeneration") != metadata["generation"]:
            self.caller.set_status(DEPLOYMENTS, NAMESPACE, name, {"observedGeneration": metadata["generation"]})
        selected = {**template["metadata"]["labels"], "pod-template-hash": "1"}
        matched = {key: selected[key] for key in ("app", "pod-template-hash")}
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": metadata["uid"]}
        said = {"name": f"{name}-1", "namespace": NAMESPACE, "labels": selected, "annotations": _REVISION}
        spec = {"replicas": deployment["spec"]["replicas"], "selector": {"matchLabels": matched}}
        spec["template"] = {**template, "metadata": {"labels": selected}}
        body = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {**said, "ownerReferences": [owner]}}
        self.caller.apply(REPLICA_SETS, {**body, "spec": spec}, force="true")

    def advance_pods(self, name: str, deployment: Body) -> None:
        """Create or delete the ReplicaSet's pods to the desired number, and advance each by one step."""
        replica_set = self.caller.get(REPLICA_SETS, NAMESPACE, f"{name}-predictor-1")
        wanted, selector = replica_set["spec"]["replicas"], replica_set["spec"]["selector"]["matchLabels"]
        pods = [pod for pod in self.listed(PODS) if selector.items() <= pod["metadata"].get("labels", {}).items()]
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set["metadata"]["name"]}
        owner |= {"uid": replica_set["metadata"]["uid"], "controller": True}
        for _ in range(wanted - len(pods)):
            metadata = {**replica_set["spec"]["template"]["metadata"], "generateName": f"{name}-predictor-"}
            gates = {"schedulingGates": self.gates} if self.gates else {}
            spec = {**replica_set["spec"]["template"]["spec"], **gates}
            metadata |= {"namespace": NAMESPACE, "ownerReferences": [owner]}
            self.caller.make(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        # A real ReplicaSet deletes the least advanced pods first.
        surplus = sorted(pods, key=_pod_progress)[: max(0, len(pods) - wanted)]
        for pod in surplus:
            self.caller.request("DELETE", PODS.path(NAMESPACE, pod["metadata"]["name"]))
        if wanted == 0:
            self.end(name)
        for pod in pods:
            if pod in surplus or any(each == ("Ready", "True") for each in _conditions(pod)):
                continue
            if "ownerReferences" not in pod["metadata"]:
                metadata = {"ownerReferences": [owner]}
                self.caller.patch(PODS, NAMESPACE, pod["metadata"]["name"], {"metadata": metadata})
            if STANDBY_LABEL not in pod["metadata"]["labels"]:
                status = self.fixed_pod_status or self.next_pod_status(name, pod)
                self.caller.set_status(PODS, NAMESPACE, pod["metadata"]["name"], status)

    def next_pod_status(self, name: str, pod: Body) -> Body:
        if not pod.get("status"):
            return _status([("PodScheduled", "True")], {"waiting": {"reason": "ContainerCreating"}})
        if name not in self.engines:
            command = [sys.executable, str(SCRIPTED), "--port", str(self.port), "--ready-after", "0.3"]
            command += self.engine_arguments
            self.engines[name] = subprocess.Popen(command)
        ready = "True" if self.answers() else "False"
        return {**_status([("PodScheduled", "True"), ("Ready", ready)], {"running": {}}), "podIP": "127.0.0.1"}

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
            return True
        return False

    def end(self, name: str) -> None:
        for pod in self.listed(PODS):
            if pod["metadata"]["name"].startswith(f"{name}-predictor-"):
                self.caller.request("DELETE", PODS.path(NAMESPACE, pod["metadata"]["name"]))
        if engine := self.engines.pop(name, None):
            engine.kill()
            engine.wait(10)


_REVISION = {"deployment.kubernetes.io/revision": "1"}


def _pod_progress(pod: Body) -> tuple[bool, bool]:
    states = [each["state"] for each in pod.get("status", {}).get("containerStatuses", ())]
    return ("Ready", "True") in _conditions(pod), any("running" in each for each in states)


def _conditions(pod: Body) -> list[tuple[str, str]]:
    return [(each["type"], each["status"]) for each in pod.get("status", {}).get("conditions", ())]


def _status(conditions: list[tuple[str, str]], state: Body) -> Body:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    said = [{"type": kind, "status": status, "lastTransitionTime": now} for kind, status in conditions]
    container = {"name": "kserve-container", "image": "engine", "imageID": "", "ready": False, "restartCount": 0}
    return {"phase": "Running", "conditions": said, "containerStatuses": [{**container, "state": state}]}


class ServingOnCluster:
    """The adapter on such a cluster, with the objects that tests manipulate."""

    def __init__(
        self,
        driver: ServingDriver,
        serving: KServeServing,
        caller: Caller,
        controllers: Controllers,
        models: InMemoryModelLookup,
        server: Any,
    ) -> None:
        self.driver = driver
        self.serving = serving
        self.caller = caller
        self.controllers = controllers
        self.models = models
        self.forbid: Callable[..., None] = server.forbid
        self.answered: list[tuple[str, str, str]] = server.answered

    def deployment(self, name: str) -> Body:
        return self.caller.get(DEPLOYMENTS, NAMESPACE, f"{name}-predictor")


@contextmanager
def serving_on_cluster(
    folder: Path, schemas: Schemas, crds: Path, port: int, *models: EngineModel, **settings: Any
) -> Iterator[ServingOnCluster]:
    """Yield an adapter with these models on a cluster of its own."""
    with _server.ApiServer(schemas, crds) as server, asyncio.Runner() as runner:
        kubeconfig = server.kubeconfig(folder / "kubeconfig")
        caller = _caller.Caller(kubeconfig, agent="controllers")
        caller.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        # The first object of a kind loads its schema, which must not count in measured wakes.
        first: Body = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
        first["metadata"] = {"name": "first", "namespace": NAMESPACE}
        caller.request("POST", INFERENCE_SERVICES.path(NAMESPACE), {**first, "spec": {}}, dryRun="All")
        controllers, known = Controllers(caller, port), InMemoryModelLookup(*models)
        controllers.start()
        cluster = Cluster(ClusterSettings(kubeconfig))

        async def make() -> KServeServing:
            return KServeServing(cluster, KServeSettings(**settings), known)

        serving = runner.run(make())
        driver = ServingDriver(runner, serving)
        driver.run_loop_for(0)
        try:
            yield ServingOnCluster(driver, serving, caller, controllers, known, server)
        finally:
            controllers.done.set()
            controllers.join(20)
            driver.client.close()
            runner.run(serving.close())


def upstream() -> tuple[Path, Schemas]:
    """The folder of upstream CRDs and a validator of them."""
    place: Path = _schemas.folder()
    return place, _schemas.Schemas(place)
