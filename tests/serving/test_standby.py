"""A model wakes in a standby engine as a replica of its own Deployment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.resources import EVENTS, INFERENCE_SERVICES, PODS, REPLICA_SETS
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.platform.serving.kserve.phases import RESERVED, STANDBY_LABEL, TAKEN
from llmariner.settings import Secret

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster
from .standby_pods import RUNTIME, TOKEN, StandbyPods

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

# Its pods are processes, which have to start in time.
pytestmark = pytest.mark.quiet

SMALL = EngineModel("org/Small:1", "pvc://models/small", "generate", 0, typical_wake_seconds=1.0)
OTHER = replace(SMALL, id="other", folder="pvc://models/other")
TUNED = EngineModel("ft:small:x", "pvc://models/tuned/x", "generate", 0, base=SMALL.id)
PENDING = {"phase": "Pending"}


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    """Its pods of models' own get no node: what answers stood by."""
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, OTHER, standby_token=Secret(TOKEN)) as made:
        made.controllers.fixed_pod_status = PENDING
        yield made


@pytest.fixture
def standby(cluster: ServingOnCluster, tmp_path: Path) -> Iterator[StandbyPods]:
    pods = StandbyPods(tmp_path, cluster)
    yield pods
    cluster.controllers.extra_steps.clear()
    pods.close()


def warm(standby: StandbyPods, name: str = "standby-1", **fields: Any) -> None:
    standby.start(name, free_port(), **fields)
    until(lambda: standby.warm(name))


def until(fact: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def labels(standby: StandbyPods, name: str = "standby-1") -> dict[str, str]:
    pod = standby.pod(name)
    assert pod is not None, f"{name} is gone"
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


def test_a_model_wakes_in_a_standby_pod_as_a_replica_of_its_deployment(
    cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby)
    status = cluster.driver.ready(SMALL.id)
    assert cluster.driver.chat(SMALL.id, status.endpoint, max_tokens=2)
    (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
    (replica_set,) = cluster.controllers.listed(REPLICA_SETS)
    name = service["metadata"]["name"]
    until(lambda: len(cluster.controllers.listed(PODS)) == 1)
    (pod,) = cluster.controllers.listed(PODS)
    assert pod["metadata"]["name"] == "standby-1"
    assert replica_set["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
    assert pod["metadata"]["labels"][STANDBY_LABEL] == TAKEN
    assert pod["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == name
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "llmariner-serving"
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "cpu"
    assert pod["metadata"]["annotations"]["llmariner.ai/model"] == SMALL.id
    (event,) = cluster.controllers.listed(EVENTS)
    assert (event["reason"], event["involvedObject"]["name"]) == ("StandbyTaken", name)
    assert "standby-1" in event["message"]


def test_its_engine_has_the_arguments_of_the_models_own_pod(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)
    cluster.models.registered[TUNED.id] = TUNED
    cluster.driver.ready(SMALL.id)
    (arguments,) = standby.arguments
    (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
    port, name = cluster.controllers.port, service["metadata"]["name"]
    own = service["spec"]["predictor"]["model"]["args"]
    assert arguments[:4] == ["serve", "/mnt/pvc/models/small", f"--port={port}", f"--served-model-name={name}"]
    assert arguments[5:-1] == own[:-1]
    assert own[-1].startswith("ft:small:x=/mnt/adapters/")
    assert arguments[-1] == "ft:small:x=/mnt/pvc/models/tuned/x"


def test_a_second_wake_uses_another_standby_pod(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)
    cluster.driver.ready(SMALL.id)
    cluster.driver.sleep(SMALL.id)
    until(lambda: standby.pod("standby-1") is None)
    until(lambda: not standby.processes)
    assert cluster.driver.status(SMALL.id).phase is Phase.ASLEEP
    warm(standby, "standby-2")
    cluster.driver.ready(SMALL.id)
    assert labels(standby, "standby-2")[STANDBY_LABEL] == TAKEN


def test_one_of_two_models_gets_the_pod_and_the_other_its_own(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)

    async def both() -> None:
        await asyncio.gather(cluster.serving.wake(SMALL.id), cluster.serving.wake(OTHER.id))

    cluster.driver.run(both())
    taken_by = labels(standby)["serving.kserve.io/inferenceservice"]
    winner, loser = (SMALL, OTHER) if "small" in taken_by else (OTHER, SMALL)
    assert cluster.driver.wait_until(lambda status: status.phase is Phase.READY, winner.id)
    assert cluster.driver.status(loser.id).phase is not Phase.READY
    assert len(standby.arguments) == 1


@pytest.mark.parametrize(
    ("model", "pod"),
    [
        (replace(SMALL, folder="hf://org/small"), {}),
        (replace(SMALL, folder="pvc://elsewhere/small"), {}),
        (replace(SMALL, size_bytes=20 << 30), {}),
        (SMALL, {"memory": "7Gi"}),
        (SMALL, {"runtime": "vllm-nvidia"}),
        # Labels of an InferenceService from kubectl are copied to its pods.
        (SMALL, {"service": "theirs"}),
    ],
    ids=["weights elsewhere", "another claim", "a larger model", "a smaller pod", "another runtime", "of a model"],
)
def test_a_mismatched_standby_pod_is_not_used(
    model: EngineModel, pod: dict[str, Any], cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby, **pod)
    cluster.models.registered[SMALL.id] = model
    cluster.driver.wake(SMALL.id)
    cluster.driver.wait_until(lambda status: status.phase is Phase.QUEUED or status.phase is Phase.STARTING, SMALL.id)
    assert labels(standby)[STANDBY_LABEL] == pod.get("runtime", RUNTIME)


def test_a_rejecting_standby_pod_is_given_up_and_the_model_wakes_normally(
    cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby, token="another")
    cluster.controllers.fixed_pod_status = None
    assert cluster.driver.ready(SMALL.id)
    until(lambda: standby.pod("standby-1") is None)


def test_a_standby_pod_whose_engine_exits_is_given_up_and_the_model_wakes_normally(
    cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby)
    cluster.driver.ready(SMALL.id)
    cluster.controllers.fixed_pod_status = None
    standby.processes["standby-1"].kill()
    cluster.driver.wait_until(lambda status: status.phase is not Phase.READY, SMALL.id)
    assert cluster.driver.ready(SMALL.id)
    assert standby.pod("standby-1") is None


def test_another_process_continues_a_started_transition(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)
    cluster.serving._standby.reconcile = lambda *_: None  # type: ignore[method-assign]
    cluster.driver.wake(SMALL.id)
    assert labels(standby)[STANDBY_LABEL] == RESERVED
    cluster.driver.run_loop_for(0.5)
    assert standby.arguments == []
    serving = cluster.serving

    async def another() -> KServeServing:
        return KServeServing(serving._cluster, serving._settings, serving._lookup)

    fresh = cluster.driver.run(another())
    cluster.driver.serving = fresh
    try:
        cluster.driver.wait_until(lambda status: status.phase is Phase.READY, SMALL.id)
        assert labels(standby)[STANDBY_LABEL] == TAKEN
    finally:
        cluster.driver.run(fresh._standby.close())
        fresh._client.close()


def test_a_rejected_wake_releases_the_standby_pod(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)
    cluster.forbid("patch inferenceservices")
    cluster.driver.wake(SMALL.id)
    until(lambda: standby.pod("standby-1") is None)


def test_a_standby_pod_without_a_deployment_is_deleted_after_a_while(
    cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby)
    cluster.serving._standby.reconcile = lambda *_: None  # type: ignore[method-assign]
    cluster.driver.wake(SMALL.id)
    cluster.driver.run(cluster.serving.reconcile())
    assert labels(standby)[STANDBY_LABEL] == RESERVED, "it was taken just now"
    cluster.serving._standby.release_abandoned(time.time() + 121)
    assert standby.pod("standby-1") is None


def test_progress_counts_from_the_claim_and_only_a_replica_is_ready(
    cluster: ServingOnCluster, standby: StandbyPods
) -> None:
    warm(standby)
    cluster.driver.wake(SMALL.id)
    first = cluster.driver.status(SMALL.id)
    assert first.phase is not Phase.READY
    assert first.progress < 0.97
    cluster.driver.wait_until(lambda status: status.phase is Phase.READY, SMALL.id)
    path = PODS.path(NAMESPACE, "standby-1")
    label = {"metadata": {"labels": {STANDBY_LABEL: RESERVED}}}
    cluster.caller.done("PATCH", path, label, media="application/merge-patch+json")
    cluster.driver.wait_until(lambda status: status.phase is not Phase.READY, SMALL.id)


def test_several_replicas_have_separate_addresses(cluster: ServingOnCluster, standby: StandbyPods) -> None:
    warm(standby)
    cluster.models.registered[SMALL.id] = replace(SMALL, replicas=2)
    assert cluster.driver.ready(SMALL.id).replicas == ()
    said = {"phase": "Running", "podIP": "127.0.0.2", "conditions": [{"type": "Ready", "status": "True"}]}
    cluster.controllers.fixed_pod_status = said
    status = cluster.driver.wait_until(lambda status: bool(status.replicas), SMALL.id)
    port = cluster.controllers.port
    assert status.replicas == (f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}")
    assert status.capacity == 64
    assert cluster.driver.phases[-1] == (SMALL.id, Phase.READY)
