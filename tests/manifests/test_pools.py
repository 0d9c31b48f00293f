"""Quota pools, disruption budgets, and several replicas of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from .kustomize import Rendered, names

CHECKOUT = Path(__file__).parents[2]
KUEUE = "kueue.x-k8s.io"
SCALERS = "keda/scalers-schema.json"


@pytest.fixture(scope="module")
def production() -> Rendered:
    return Rendered(CHECKOUT / "manifests/overlays/production")


def test_a_pool_has_the_configured_quota(production: Rendered) -> None:
    quota = {
        o["metadata"]["name"]: {
            r["name"]: r["nominalQuota"] for r in o["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
        }
        for o in production.objects_of(KUEUE, "ClusterQueue")
    }
    said = production.settings()
    assert quota == {
        "llmariner-cpu": {"cpu": said["CPU_POOL_CPU"], "memory": said["CPU_POOL_MEMORY"]},
        "llmariner-nvidia": {
            "cpu": said["NVIDIA_POOL_CPU"],
            "memory": said["NVIDIA_POOL_MEMORY"],
            "nvidia.com/gpu": said["NVIDIA_POOL_DEVICES"],
        },
    }


@pytest.mark.parametrize("pool", ["cpu", "nvidia", "amd", "intel-gaudi"])
def test_a_pool_is_consistent(pool: str, schemas: Any) -> None:
    folder = CHECKOUT / "manifests/components/kueue" / pool
    flavor, queue, local, of_jobs = yaml.safe_load_all((folder / "pool.yaml").read_text())
    assert [schemas.faults(each) for each in (flavor, queue, local, of_jobs)] == [[]] * 4
    (group,) = queue["spec"]["resourceGroups"]
    (of_flavor,) = group["flavors"]
    assert of_flavor["name"] == flavor["metadata"]["name"]
    assert [each["name"] for each in of_flavor["resources"]] == group["coveredResources"]
    for each in (local, of_jobs):
        assert (each["metadata"]["name"], each["spec"]["clusterQueue"]) == (pool, queue["metadata"]["name"])
    settings = [
        each["source"]["fieldPath"]
        for each in yaml.safe_load((folder / "kustomization.yaml").read_text())["replacements"]
    ]
    assert len(settings) == len(group["coveredResources"])
    engines = [yaml.safe_load(path.read_text()) for path in (CHECKOUT / "kserve" / pool).glob("*-*.yaml")]
    asked = {name for each in engines for name in each["spec"]["containers"][0]["resources"]["limits"]}
    assert asked == set(group["coveredResources"])


def test_queues_admit_models_and_jobs_of_their_namespaces(production: Rendered) -> None:
    labels = {o["metadata"]["name"]: o["metadata"]["labels"] for o in production.objects_of("", "Namespace")}
    queues = [each["metadata"] for each in production.objects_of(KUEUE, "LocalQueue")]
    for name in {each["name"] for each in queues}:
        found = {each["namespace"] for each in queues if each["name"] == name}
        assert found == {"llmariner-models", "llmariner-jobs"}
    for queue in production.objects_of(KUEUE, "ClusterQueue"):
        wanted = queue["spec"]["namespaceSelector"]["matchLabels"]
        for namespace in ("llmariner-models", "llmariner-jobs"):
            assert wanted.items() <= labels[namespace].items()


@pytest.mark.parametrize("overlay", ["playground", "production", "test"])
def test_models_use_a_queue_and_hardware_of_the_overlay(overlay: str) -> None:
    rendered = Rendered(CHECKOUT / "manifests/overlays" / overlay)
    said = rendered.settings()
    assert said["LLMARINER_QUEUE"] in names(rendered.objects_of(KUEUE, "LocalQueue"))
    engines = names(rendered.objects_of("serving.kserve.io", "ClusterServingRuntime"))
    assert [name for name in engines if name.endswith(said["LLMARINER_ACCELERATOR"].removeprefix("intel-"))]


def test_a_model_preempts_a_job(production: Rendered) -> None:
    values = {o["metadata"]["name"]: o["value"] for o in production.objects_of(KUEUE, "WorkloadPriorityClass")}
    assert values["llmariner-serving"] > values["llmariner-notebooks"] > values["llmariner-jobs"]
    for queue in production.objects_of(KUEUE, "ClusterQueue"):
        assert queue["spec"]["preemption"] == {"withinClusterQueue": "LowerPriority"}


def test_always_on_functions_have_two_spread_replicas(production: Rendered) -> None:
    for name in ("chat-completions", "internal-gateway"):
        (service,) = [s for s in production.services() if s["metadata"]["name"] == name]
        template = service["spec"]["template"]
        assert template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "2"
        for spread in template["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"] == {"serving.knative.dev/service": name}
    (pgbouncer,) = production.objects_of("apps", "Deployment")
    assert pgbouncer["spec"]["replicas"] == 2


def test_every_other_function_scales_to_zero(production: Rendered) -> None:
    awake = {
        s["metadata"]["name"]
        for s in production.services()
        if s["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] != "0"
    }
    assert awake == {"chat-completions", "internal-gateway"}
    playground = Rendered(CHECKOUT / "manifests/overlays/playground")
    scales = {
        s["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"]
        for s in playground.services()
    }
    assert scales == {"0"}


def test_disruption_budgets_permit_a_drain(production: Rendered) -> None:
    for budget in production.objects_of("policy", "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        wanted = budget["spec"]["selector"].get("matchLabels", {}).get("serving.knative.dev/service")
        assert wanted is None or wanted in names(production.services())


def test_the_activator_leaves_the_token_path_once_a_replica_is_ready(production: Rendered) -> None:
    key = "autoscaling.knative.dev/target-burst-capacity"
    said = {
        s["metadata"]["name"]: s["spec"]["template"]["metadata"]["annotations"].get(key) for s in production.services()
    }
    assert {name for name, value in said.items() if value == "0"} == {
        "chat-completions",
        "completions",
        "embeddings",
        "rerank",
    }


def test_the_control_function_outlives_those_that_ask_it(production: Rendered) -> None:
    key = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"
    said = {
        s["metadata"]["name"]: s["spec"]["template"]["metadata"]["annotations"].get(key) for s in production.services()
    }
    assert {name: value for name, value in said.items() if value is not None} == {"internal-gateway": "300s"}


def template(name: str) -> Any:
    return yaml.safe_load((CHECKOUT / "kserve/templates" / f"{name}.yaml").read_text())


def test_autoscalers_target_kserves_objects_of_the_example() -> None:
    model = template("inference-service")["metadata"]
    for name in ("scaled-object", "horizontal-pod-autoscaler"):
        body = template(name)
        assert body["metadata"]["namespace"] == model["namespace"]
        assert body["spec"]["scaleTargetRef"]["name"] == f"{model['name']}-predictor"


def test_keda_neither_wakes_a_model_nor_puts_it_to_sleep(crds: Path) -> None:
    spec = template("scaled-object")["spec"]
    assert (spec["idleReplicaCount"], spec["minReplicaCount"]) == (0, 1)
    assert min(spec["cooldownPeriod"], spec["initialCooldownPeriod"]) > 10 * 365 * 86400
    scalers = {each["type"]: each for each in json.loads((crds / SCALERS).read_text())["scalers"]}
    for trigger in spec["triggers"]:
        known = {each["name"]: each for each in scalers[trigger["type"]]["parameters"]}
        assert trigger["metadata"].keys() <= known.keys()
        needed = {name for name, each in known.items() if not each.get("optional") and "default" not in each}
        assert needed <= trigger["metadata"].keys() | {"identityOwner"}
        assert float(trigger["metadata"]["activationThreshold"]) >= 1e9
