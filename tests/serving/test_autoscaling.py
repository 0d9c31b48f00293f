"""A model with a variable number of replicas has one autoscaler, which never scales to or from zero."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.platform.kube.resources import HORIZONTAL_POD_AUTOSCALERS, INFERENCE_SERVICES, SCALED_OBJECTS
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve.autoscaling import horizontal_pod_autoscaler, scaled_object
from llmariner.platform.serving.kserve.objects import inference_service
from llmariner.settings import KServeSettings

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

PROMETHEUS = "http://prometheus-operated.monitoring.svc.cluster.local:9090"
FIXED = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0)
GROWING = replace(FIXED, max_replicas=4)
TEMPLATES = Path(__file__).parents[2] / "kserve" / "templates"
MANIFESTS = Path(__file__).parents[2] / "manifests"
Start = Callable[..., AbstractContextManager[ServingOnCluster]]


@pytest.fixture
def start(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Start:
    crds, schemas = upstream_schemas

    def started(model: EngineModel, *, keda: bool = True, **settings: Any) -> AbstractContextManager[ServingOnCluster]:
        kinds = tmp_path / "kinds"
        kinds.mkdir()
        for folder in crds.iterdir():
            if keda or folder.name != "keda":
                (kinds / folder.name).symlink_to(folder)
        return serving_on_cluster(tmp_path, schemas, kinds, free_port(), model, **settings)

    return started


def autoscalers(cluster: ServingOnCluster) -> list[dict[str, Any]]:
    found = list(cluster.controllers.listed(HORIZONTAL_POD_AUTOSCALERS))
    code, listed = cluster.caller.request("GET", SCALED_OBJECTS.path(NAMESPACE))
    return found + (listed["items"] if code == 200 else [])


def rewake(cluster: ServingOnCluster, model: EngineModel) -> None:
    """A change of the configuration has its effect at the next wake."""
    cluster.models.registered[model.id] = model
    cluster.driver.sleep(model.id)
    cluster.driver.ready(model.id)


def test_a_scaled_object_where_keda_and_prometheus_exist_is_owned_by_the_service(start: Start) -> None:
    with start(GROWING, prometheus=PROMETHEUS) as cluster:
        cluster.driver.ready(GROWING.id)
        (made,) = autoscalers(cluster)
        (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
        name = service["metadata"]["name"]
        assert made["kind"] == "ScaledObject"
        assert made["spec"]["scaleTargetRef"]["name"] == f"{name}-predictor"
        assert made["metadata"]["name"] == f"{name}-autoscaler"
        (owner,) = made["metadata"]["ownerReferences"]
        assert owner["uid"] == service["metadata"]["uid"]
        assert service["spec"]["predictor"]["maxReplicas"] == 4
        rewake(cluster, FIXED)
        assert autoscalers(cluster) == []


@pytest.mark.parametrize(("keda", "prometheus"), [(False, PROMETHEUS), (True, "")])
def test_a_horizontal_pod_autoscaler_where_keda_or_prometheus_is_missing(
    start: Start, keda: bool, prometheus: str
) -> None:
    with start(GROWING, keda=keda, prometheus=prometheus) as cluster:
        cluster.driver.ready(GROWING.id)
        (made,) = autoscalers(cluster)
        assert made["kind"] == "HorizontalPodAutoscaler"
        assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (1, 4)
        assert made["spec"]["metrics"][0]["resource"]["name"] == "cpu"
        rewake(cluster, replace(GROWING, replicas=2, max_replicas=3))
        (made,) = autoscalers(cluster)
        assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (2, 3)


def test_a_model_of_fixed_size_has_no_autoscaler(start: Start) -> None:
    with start(replace(FIXED, replicas=2, max_replicas=2)) as cluster:
        cluster.driver.wake(FIXED.id)
        assert autoscalers(cluster) == []


def test_the_other_kind_is_deleted_before_one_is_created(start: Start) -> None:
    with start(GROWING, prometheus="") as cluster:
        cluster.driver.ready(GROWING.id)
        cluster.serving._transitions._autoscaling._settings = replace(cluster.serving._settings, prometheus=PROMETHEUS)
        rewake(cluster, GROWING)
        assert [each["kind"] for each in autoscalers(cluster)] == ["ScaledObject"]


def test_waking_keeps_the_autoscalers_replicas_and_sleeping_removes_all(start: Start) -> None:
    with start(GROWING) as cluster:
        cluster.driver.ready(GROWING.id)
        (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
        name = service["metadata"]["name"]
        scale = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}-predictor/scale"
        merge = "application/merge-patch+json"
        cluster.caller.done("PATCH", scale, {"spec": {"replicas": 3}}, media=merge)
        cluster.driver.wake(GROWING.id)
        assert cluster.deployment(name)["spec"]["replicas"] == 3
        cluster.driver.sleep(GROWING.id)
        assert cluster.deployment(name)["spec"]["replicas"] == 0
        assert [each["kind"] for each in autoscalers(cluster)] == ["HorizontalPodAutoscaler"], "it does nothing at none"
        cluster.driver.wake(GROWING.id)
        assert cluster.deployment(name)["spec"]["replicas"] == 1


def test_a_rejected_autoscaler_does_not_prevent_a_wake(start: Start) -> None:
    with start(GROWING) as cluster:
        cluster.forbid("patch horizontalpodautoscalers")
        assert cluster.driver.ready(GROWING.id).phase is Phase.READY
        assert autoscalers(cluster) == []


def test_models_of_one_name_have_separate_autoscalers() -> None:
    """By labels of the scraper: two projects may have a model of one name, and engines say what they like."""
    monitors = yaml.safe_load_all((MANIFESTS / "components/monitoring/monitors.yaml").read_text())
    (labels,) = (each["spec"]["podTargetLabels"] for each in monitors if each["metadata"]["name"] == "llmariner-models")
    queries = []
    for model_id in ("small", "small@proj_b"):
        model = replace(GROWING, id=model_id)
        service = {**inference_service(model, (), KServeSettings()), "kind": "InferenceService"}
        service["metadata"]["uid"] = "u"
        triggers = scaled_object(model, service, KServeSettings(prometheus=PROMETHEUS))["spec"]["triggers"]
        queries.append([each["metadata"]["query"] for each in triggers])
        for query in queries[-1]:
            matched = dict(re.findall(r'(\w+)="([^"]*)"', query))
            assert matched == {"namespace": NAMESPACE, re.sub(r"\W", "_", labels[0]): service["metadata"]["name"]}
    assert queries[0] != queries[1]


@pytest.mark.parametrize("kind", ["scaled-object", "horizontal-pod-autoscaler"])
def test_the_template_for_external_models_has_the_same_autoscaler(kind: str) -> None:
    template = yaml.safe_load((TEMPLATES / f"{kind}.yaml").read_text())
    model = replace(GROWING, id="example")
    metadata = {"name": "example", "namespace": "llmariner-models", "uid": "u"}
    service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata}
    made = {
        "scaled-object": lambda: scaled_object(model, service, KServeSettings(prometheus=PROMETHEUS)),
        "horizontal-pod-autoscaler": lambda: horizontal_pod_autoscaler(model, service, engine_metrics=True),
    }[kind]()
    assert made["spec"] == template["spec"]
