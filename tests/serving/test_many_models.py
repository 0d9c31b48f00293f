"""Queries of lists and sweeps over many models to cluster and database, for any number of concurrent callers."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES, NAMESPACES, PODS, SERVICES
from llmariner.platform.serving import EngineModel, Phase, Status
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.platform.serving.kserve.objects import inference_service, object_name
from llmariner.settings import ClusterSettings, KServeSettings

from .kserve_cluster import NAMESPACE, InMemoryModelLookup

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

_caller = importlib.import_module("..kubernetes_api.caller", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)

MODELS = [EngineModel(f"org/m{number}", "hf://org/x", "generate", 0) for number in range(12)]
AWAKE = 5
LISTS = ["deployments", "inferenceservices", "pods", "services"]


class ManyModels:
    """An adapter on a cluster with models of which the first are awake; no controllers."""

    def __init__(self, folder: Path, server: Any) -> None:
        self._server = server
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig")
        self.caller = _caller.Caller(self.kubeconfig, agent="controllers")
        self.caller.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.models = InMemoryModelLookup(*MODELS)
        for number, model in enumerate(MODELS):
            self._make(model, awake=number < AWAKE)

    def asked(self) -> list[str]:
        """What the platform asked of the API since the last time: kinds of lists, and paths of everything else."""
        found = [path for agent, _, path in self._server.answered if agent == "llmariner"]
        self._server.answered.clear()
        return sorted(path.removeprefix("/").rsplit("/", 1)[-1] for path in found)

    def serving(self, **settings: Any) -> KServeServing:
        return KServeServing(Cluster(ClusterSettings(self.kubeconfig)), KServeSettings(**settings), self.models)

    def _make(self, model: EngineModel, *, awake: bool) -> None:
        self.caller.make(INFERENCE_SERVICES, inference_service(model, (), KServeSettings()))
        name = f"{object_name(model, NAMESPACE)}-predictor"
        labels = {"serving.kserve.io/inferenceservice": object_name(model, NAMESPACE), "app": name}
        placed = {"name": name, "namespace": NAMESPACE}
        containers = [{"name": "kserve-container", "image": "engine", "ports": [{"containerPort": 9}]}]
        template: dict[str, Any] = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
        spec = {"replicas": int(awake), "selector": {"matchLabels": {"app": name}}, "template": template}
        self.caller.make(DEPLOYMENTS, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": placed, "spec": spec})
        front = {"clusterIP": "127.0.0.1", "ports": [{"port": 9}], "selector": labels}
        self.caller.make(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": placed, "spec": front})
        if awake:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**placed, "labels": labels},
                "spec": template["spec"],
            }
            self.caller.make(PODS, pod)
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            self.caller.set_status(PODS, NAMESPACE, name, {"podIP": "127.0.0.1", "conditions": [ready]})


@pytest.fixture
def many(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ManyModels]:
    crds, schemas = upstream_schemas
    with _server.ApiServer(schemas, crds) as server:
        yield ManyModels(tmp_path, server)


def test_concurrent_lookups_share_one_list_and_one_get(many: ManyModels) -> None:
    async def ask() -> list[dict[str, Status]]:
        serving = many.serving()
        many.asked()
        found = await asyncio.gather(*(serving.statuses() for _ in range(20)))
        await serving.close()
        return found

    found = asyncio.run(ask())
    assert {frozenset(each) for each in found} == {frozenset(model.id for model in MODELS[:AWAKE])}
    assert {status.phase for status in found[0].values()} == {Phase.READY}
    assert many.asked() == LISTS
    assert many.models.asked == [AWAKE], "models that are asleep are not looked up"


def test_a_sweep_lists_once_and_queries_no_sleeping_model(many: ManyModels) -> None:
    async def sweep() -> None:
        serving = many.serving(idle_seconds=300.0)
        many.models.last = {model.id: None for model in MODELS}  # each has a request under way
        many.asked()
        await asyncio.gather(*(serving.reconcile() for _ in range(3)))  # called again while it runs
        await serving.close()

    asyncio.run(sweep())
    assert many.asked() == LISTS
    assert many.models.asked == [AWAKE]


def test_one_model_with_an_unreadable_status_affects_no_other(many: ManyModels) -> None:
    many.models.registered[MODELS[0].id] = replace(MODELS[0], replicas=2)  # it is to be completed, which is refused

    async def ask() -> dict[str, Status]:
        serving = many.serving()
        serving._wake_started_at[object_name(MODELS[0], NAMESPACE)] = 0.0
        many._server.forbid("patch deployments/scale")
        found = await serving.statuses()
        await serving.close()
        return found

    assert set(asyncio.run(ask())) >= {model.id for model in MODELS[1:AWAKE]}
