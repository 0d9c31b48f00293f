"""Models of a project wait for quota in its LocalQueue, which exists as long as the project has models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.resources import INFERENCE_SERVICES, LOCAL_QUEUES, PODS, WORKLOADS
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, queue_name

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

EVERYBODYS = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0)
OURS = replace(EVERYBODYS, id="ours", project="proj_1")
OURS_TOO = replace(EVERYBODYS, id="ours-too", project="proj_1")
POOL, OWN = "cpu", queue_name("cpu", "proj_1")
GATE = {"name": "kueue.x-k8s.io/admission"}


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), EVERYBODYS, OURS, OURS_TOO, queue=POOL) as made:
        made.caller.make(LOCAL_QUEUES, local_queue(POOL))
        yield made


def local_queue(name: str, cluster_queue: str = "llmariner-cpu") -> dict[str, Any]:
    kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
    return {**kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"clusterQueue": cluster_queue}}


def queues(cluster: ServingOnCluster) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in cluster.controllers.listed(LOCAL_QUEUES)}


def queue_label(cluster: ServingOnCluster, model: EngineModel) -> str:
    for each in cluster.controllers.listed(INFERENCE_SERVICES):
        if each["metadata"]["annotations"]["llmariner.ai/model"] == model.id:
            return str(each["metadata"]["labels"]["kueue.x-k8s.io/queue-name"])
    raise AssertionError(f"{model.id} has no InferenceService")


def test_a_projects_model_uses_the_projects_queue_and_a_shared_one_the_pools(cluster: ServingOnCluster) -> None:
    cluster.driver.wake(EVERYBODYS.id)
    assert queue_label(cluster, EVERYBODYS) == POOL
    assert queues(cluster).keys() == {POOL}
    cluster.driver.wake(OURS.id)
    assert queue_label(cluster, OURS) == OWN
    made = queues(cluster)[OWN]
    assert made["spec"]["clusterQueue"] == "llmariner-cpu"
    assert made["metadata"]["annotations"] == {PROJECT_ANNOTATION: "proj_1"}
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "llmariner"}
    cluster.driver.wake(OURS_TOO.id)
    assert queues(cluster)[OWN]["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_the_queue_is_deleted_with_the_projects_last_model(cluster: ServingOnCluster) -> None:
    for model in (OURS, OURS_TOO):
        cluster.driver.wake(model.id)
    del cluster.models.registered[OURS.id]
    cluster.driver.run(cluster.serving.remove(OURS.id, OURS.folder))
    assert OWN in queues(cluster)
    del cluster.models.registered[OURS_TOO.id]
    cluster.driver.run(cluster.serving.remove(OURS_TOO.id, OURS_TOO.folder))
    assert queues(cluster).keys() == {POOL}


def test_the_sweep_deletes_unused_queues_of_the_platform_only(cluster: ServingOnCluster) -> None:
    cluster.driver.wake(OURS.id)
    theirs = local_queue("theirs")
    theirs["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "llmariner"}
    cluster.caller.make(LOCAL_QUEUES, theirs)
    cluster.models.registered = {EVERYBODYS.id: EVERYBODYS}
    cluster.driver.run(cluster.serving.reconcile())
    assert queues(cluster).keys() == {POOL, "theirs"}


def test_a_model_created_during_the_deletion_of_its_queue_gets_a_new_one(cluster: ServingOnCluster) -> None:
    cluster.driver.wake(OURS.id)
    reported = iter([set(), {"proj_1"}])

    async def projects() -> set[str]:
        return next(reported)

    cluster.models.projects = projects  # type: ignore[method-assign]
    cluster.driver.run(cluster.serving.reconcile())
    assert OWN in queues(cluster)


def test_without_the_pools_queue_kueue_reports_the_error(cluster: ServingOnCluster) -> None:
    cluster.caller.done("DELETE", LOCAL_QUEUES.path(NAMESPACE, POOL))
    cluster.driver.wake(OURS.id)
    assert queue_label(cluster, OURS) == POOL


def test_the_queue_position_covers_all_queues_of_the_pool(cluster: ServingOnCluster) -> None:
    cluster.caller.make(LOCAL_QUEUES, local_queue("elsewhere", "another-pool"))
    cluster.controllers.gates, cluster.controllers.fixed_pod_status = [GATE], {"phase": "Pending"}
    workload(cluster, "first", POOL, "uid-of-another")
    workload(cluster, "aside", "elsewhere", "uid-of-a-third")
    cluster.driver.wake(OURS.id)
    cluster.driver.wait_until(lambda status: status.phase is Phase.QUEUED and "quota" in status.message, OURS.id)
    (pod,) = cluster.controllers.listed(PODS)
    workload(cluster, "second", OWN, pod["metadata"]["uid"])
    reported = cluster.driver.wait_until(lambda status: "number" in status.message, OURS.id).message
    assert reported.startswith("waiting for quota, number 2 of 2 in the queue"), reported


def workload(cluster: ServingOnCluster, name: str, queue: str, uid: str) -> None:
    kind = {"apiVersion": WORKLOADS.api_version, "kind": WORKLOADS.kind}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    metadata = {"name": name, "namespace": NAMESPACE, "ownerReferences": [owner]}
    template = {"spec": {"containers": [{"name": "engine"}], "restartPolicy": "Never"}}
    spec = {"queueName": queue, "podSets": [{"name": "main", "count": 1, "template": template}]}
    cluster.caller.make(WORKLOADS, {**kind, "metadata": metadata, "spec": spec})
