"""LoRA adapters of a shared base model are served separately per project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.resources import INFERENCE_SERVICES, PODS
from llmariner.platform.serving import EngineModel, Phase

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

BASE = EngineModel("base", "hf://org/base", "generate", 0, typical_wake_seconds=1.0)
THEIRS = EngineModel("ft:base:theirs", "pvc://no-such-claim/x", "generate", 0, base="base", project="proj_b")
MINE = EngineModel("ft:base:mine", "hf://org/mine", "generate", 0, base="base", project="proj_a")


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(
        tmp_path, schemas, crds, free_port(), BASE, THEIRS, MINE, idle_seconds=30.0, adapter_image="llmariner/engine:1"
    ) as made:
        yield made


def services(cluster: ServingOnCluster) -> dict[str | None, dict[str, Any]]:
    """By the project of their adapters; None: the shared base."""
    found = cluster.controllers.listed(INFERENCE_SERVICES)
    return {each["metadata"]["annotations"].get("llmariner.ai/adapters-of"): each for each in found}


def test_the_shared_base_loads_no_projects_adapters(cluster: ServingOnCluster) -> None:
    cluster.driver.ready("base")
    predictor = services(cluster)[None]["spec"]["predictor"]
    assert "storageUris" not in predictor
    assert predictor["model"]["storageUri"] == BASE.folder
    assert not [each for each in predictor["model"]["args"] if "ft:" in each]


def test_each_project_has_an_engine_with_only_its_adapters(cluster: ServingOnCluster) -> None:
    for adapter in (THEIRS, MINE):
        cluster.driver.wake(adapter.id)
    found = services(cluster)
    assert set(found) == {"proj_a", "proj_b"}
    for project, adapter in (("proj_a", MINE), ("proj_b", THEIRS)):
        uris = found[project]["spec"]["predictor"]["storageUris"]
        assert [each["uri"] for each in uris] == [BASE.folder, adapter.folder]
    assert cluster.driver.status("base").phase is Phase.ASLEEP


def test_a_failure_of_one_projects_adapter_is_reported_to_it_only(cluster: ServingOnCluster) -> None:
    failed = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "storage-initializer", "image": "x", "imageID": "", "ready": False, "restartCount": 3}
    last = {"terminated": {"exitCode": 1, "message": "claim no-such-claim not found"}}
    cluster.controllers.fixed_pod_status = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "initContainerStatuses": [{**container, "state": failed, "lastState": last}],
    }
    cluster.driver.wake(THEIRS.id)
    cluster.driver.wait_until(lambda status: status.phase is Phase.FAILED, THEIRS.id)
    cluster.controllers.fixed_pod_status = None
    assert cluster.driver.ready("base").phase is Phase.READY


def test_an_engine_of_adapters_is_deleted_with_the_last_of_them(cluster: ServingOnCluster) -> None:
    cluster.driver.wake(MINE.id)
    cluster.driver.run(cluster.serving.reconcile())
    assert set(services(cluster)) == {"proj_a"}
    del cluster.models.registered[MINE.id]
    cluster.driver.run(cluster.serving.reconcile())
    assert services(cluster) == {}


def test_an_engine_that_is_awake_starts_again_for_an_adapter_that_a_job_made_since(cluster: ServingOnCluster) -> None:
    driver, registered = cluster.driver, cluster.models.registered
    tuned = [
        EngineModel(
            f"ft:base:tuned{number}", f"llmariner-file://file-{number}", "generate", 0, base="base", project="proj_c"
        )
        for number in range(2)
    ]
    registered[tuned[0].id] = tuned[0]
    driver.ready(tuned[0].id)
    registered[tuned[1].id] = tuned[1]
    assert driver.status(tuned[1].id).phase is Phase.ASLEEP
    assert driver.status(tuned[0].id).phase is Phase.READY
    driver.wake(tuned[1].id)
    predictor = services(cluster)["proj_c"]["spec"]["predictor"]
    assert predictor["deploymentStrategy"] == {"type": "Recreate"}
    assert len([each for each in predictor["model"]["args"] if each.startswith("ft:base:tuned")]) == 2
    # The pods of before do not serve it.
    assert driver.status(tuned[1].id).phase is not Phase.READY
    before = [pod for pod in cluster.controllers.listed(PODS) if tuned[1].name not in str(pod["spec"])]
    for pod in before:  # as `Recreate` has it
        cluster.caller.request("DELETE", PODS.path(NAMESPACE, pod["metadata"]["name"]))
    for each in tuned:
        driver.wait_until(lambda status: status.phase is Phase.READY, each.id)
