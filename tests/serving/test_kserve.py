"""Requests of the KServe adapter to a cluster, and its use of the responses. Objects are validated by upstream's schemas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.errors import Conflict
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES
from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel, Phase

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SMALL = EngineModel("org/Small:1", "hf://org/small", "generate", 0, typical_wake_seconds=1.0)
TUNED = EngineModel("ft:small:x", "s3://bucket/x", "generate", 0, base="org/Small:1")
THEIRS = EngineModel("theirs", f"{IMPORTED_SCHEME}theirs", "generate", 0)


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, THEIRS, idle_seconds=30.0) as made:
        yield made


def the_service(cluster: ServingOnCluster) -> dict[str, Any]:
    (found,) = cluster.controllers.listed(INFERENCE_SERVICES)
    return found


def create_external_service(cluster: ServingOnCluster, **annotations: str) -> None:
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "theirs", "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://a/b"}}},
    }
    cluster.caller.make(INFERENCE_SERVICES, body)


OURS_TO_SCALE = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "external"}


def test_a_wake_is_recorded_once_with_its_duration(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.driver.ready(SMALL.id)
    ((model, seconds),) = cluster.models.wakes
    assert model == SMALL.id
    assert 0.3 < seconds < 20


def test_sleep_and_wake_change_replicas_and_keep_the_service(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    service = the_service(cluster)
    cluster.driver.sleep(SMALL.id)
    name = service["metadata"]["name"]
    assert cluster.deployment(name)["spec"]["replicas"] == 0
    cluster.driver.ready(SMALL.id)
    assert cluster.deployment(name)["spec"]["replicas"] == 1
    assert the_service(cluster)["metadata"]["generation"] == service["metadata"]["generation"]


def test_a_wake_applies_configuration_changes(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.driver.sleep(SMALL.id)
    cluster.models.registered |= {
        SMALL.id: EngineModel(SMALL.id, SMALL.folder, "generate", 0, extra_args=("--max-model-len=64",)),
        TUNED.id: TUNED,
    }
    cluster.driver.wake(SMALL.id)
    predictor = the_service(cluster)["spec"]["predictor"]
    assert "--max-model-len=64" in predictor["model"]["args"]
    assert predictor["storageUris"][1]["uri"] == TUNED.folder
    assert cluster.driver.ready(TUNED.id).endpoint == cluster.driver.status(SMALL.id).endpoint


def test_fields_of_other_managers_are_reported_and_not_taken(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    cluster.driver.sleep(SMALL.id)
    service = the_service(cluster)
    theirs_too = {"spec": {"predictor": {"timeout": 5}}}
    path = INFERENCE_SERVICES.path(NAMESPACE, service["metadata"]["name"])
    body = {key: service[key] for key in ("apiVersion", "kind")} | theirs_too
    body["metadata"] = {"name": service["metadata"]["name"], "namespace": NAMESPACE}
    media = "application/apply-patch+yaml"
    cluster.caller.done("PATCH", path, body, media=media, fieldManager="kubectl", force="true")
    cluster.driver.wake(SMALL.id)
    status = cluster.driver.status(SMALL.id)
    assert status.phase is Phase.FAILED
    assert "spec.predictor.timeout (set by kubectl)" in status.message
    assert the_service(cluster)["spec"]["predictor"]["timeout"] == 5


def test_external_services_are_imported_woken_and_slept_but_not_changed(cluster: ServingOnCluster) -> None:
    create_external_service(cluster, **OURS_TO_SCALE)
    cluster.driver.run(cluster.serving.reconcile())
    assert cluster.models.adopted == {"theirs": "theirs"}
    cluster.driver.ready("theirs")
    before = the_service(cluster)
    cluster.driver.sleep("theirs")
    assert cluster.driver.wait_until(lambda status: status.phase is Phase.ASLEEP, "theirs")
    cluster.driver.ready("theirs")
    assert the_service(cluster)["spec"] == before["spec"]
    assert the_service(cluster)["metadata"]["annotations"] == before["metadata"]["annotations"]


def test_single_lookups_read_external_services_only(cluster: ServingOnCluster) -> None:
    create_external_service(cluster)
    cluster.driver.ready(SMALL.id)
    our_name = next(
        each for each in cluster.controllers.listed(INFERENCE_SERVICES) if each["metadata"]["name"] != "theirs"
    )
    for name, expected in (("theirs", {"theirs": "theirs"}), (our_name["metadata"]["name"], {}), ("gone", {})):
        cluster.driver.run(cluster.serving.import_existing(name))
        assert (cluster.models.adopted, cluster.models.only) == (expected, name)


def test_services_with_kserve_autoscaling_are_stopped_by_kserves_annotation(cluster: ServingOnCluster) -> None:
    create_external_service(cluster)
    cluster.driver.wait_until(lambda status: status.phase is Phase.READY, "theirs")
    cluster.driver.sleep("theirs")
    assert the_service(cluster)["metadata"]["annotations"] == {"serving.kserve.io/stop": "true"}
    assert cluster.driver.status("theirs").phase is Phase.ASLEEP
    cluster.driver.ready("theirs")


def test_a_deleted_models_service_is_deleted_and_no_others(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    create_external_service(cluster, **OURS_TO_SCALE)
    del cluster.models.registered[SMALL.id]
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
    cluster.driver.run(cluster.serving.remove("theirs", THEIRS.folder))
    assert the_service(cluster)["metadata"]["name"] == "theirs"


def test_a_sweep_deletes_no_external_service_regardless_of_its_labels(cluster: ServingOnCluster) -> None:
    said = {"llmariner.ai/adapters-of": "proj_a", "llmariner.ai/created": "7", "llmariner.ai/model": SMALL.id}
    create_external_service(cluster, **said)
    cluster.driver.run(cluster.serving.reconcile())
    assert the_service(cluster)["metadata"]["name"] == "theirs"


def idle(cluster: ServingOnCluster, last: float | None) -> int:
    cluster.models.last[SMALL.id] = last
    cluster.driver.run(cluster.serving.reconcile())
    return int(cluster.deployment(the_service(cluster)["metadata"]["name"])["spec"]["replicas"])


def test_an_idle_model_goes_to_sleep(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> None:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, idle_seconds=4.0) as cluster:
        cluster.driver.ready(SMALL.id)
        assert idle(cluster, 0.0) == 1, "it has not been ready for long"
        cluster.driver.run_loop_for(4.1)
        assert idle(cluster, None) == 1, "a request is under way"
        assert idle(cluster, time.time()) == 1, "it was asked for just now"
        assert idle(cluster, time.time() - 9) == 0


def test_a_busy_or_always_on_model_stays_awake(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> None:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, idle_seconds=0.1) as cluster:
        endpoint = cluster.driver.ready(SMALL.id).endpoint
        cluster.driver.run_loop_for(1.2)

        async def while_it_works() -> int:
            script = {"token_interval_ms": 200}
            request = asyncio.create_task(asked(cluster, endpoint, max_tokens=20, x_script=script))
            await asyncio.sleep(0.3)
            await cluster.serving.reconcile()
            replicas = cluster.deployment(the_service(cluster)["metadata"]["name"])["spec"]["replicas"]
            await request
            return int(replicas)

        assert cluster.driver.run(while_it_works()) == 1
        cluster.models.registered[SMALL.id] = EngineModel(SMALL.id, SMALL.folder, "generate", 0, keep_awake=True)
        assert idle(cluster, 0.0) == 1


async def asked(cluster: ServingOnCluster, endpoint: str | None, **fields: Any) -> bytes:
    assert endpoint is not None
    return await cluster.driver._request(endpoint, "/v1/chat/completions", {"messages": [], **fields})


def test_a_concurrent_sleep_changes_nothing(cluster: ServingOnCluster) -> None:
    cluster.driver.ready(SMALL.id)
    name = the_service(cluster)["metadata"]["name"]
    seen = cluster.deployment(name)["metadata"]["resourceVersion"]
    cluster.caller.done(
        "PATCH",
        DEPLOYMENTS.path(NAMESPACE, f"{name}-predictor"),
        {"spec": {"replicas": 2}},
        media="application/merge-patch+json",
    )
    with pytest.raises(Conflict):
        cluster.serving._transitions.sleep(name, seen)
    assert cluster.deployment(name)["spec"]["replicas"] == 2


def test_pod_status_reaches_waiting_requests(cluster: ServingOnCluster) -> None:
    # A pod behind a gate stays where it is.
    cluster.controllers.gates, cluster.controllers.fixed_pod_status = (
        [{"name": "kueue.x-k8s.io/admission"}],
        {"phase": "Pending"},
    )
    cluster.driver.wake(SMALL.id)
    gated = cluster.driver.wait_until(lambda status: "quota" in status.message, SMALL.id)
    assert gated.phase is Phase.QUEUED


def test_a_missing_permission_is_reported_to_waiting_requests(
    upstream_schemas: tuple[Path, Schemas], tmp_path: Path
) -> None:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL) as cluster:
        cluster.forbid("patch inferenceservices")
        cluster.driver.wake(SMALL.id)
        status = cluster.driver.status(SMALL.id)
        assert status.phase is Phase.FAILED
        assert status.message.startswith("The cluster refuses the model: ")
