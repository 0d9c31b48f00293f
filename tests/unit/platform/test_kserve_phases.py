"""What a waiting caller learns, from the state of a cluster's objects."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve.phases import ObservedModel, status_of

MODEL = EngineModel("tiny", "hf://org/tiny", "generate", 0, typical_wake_seconds=100.0)
STAMP, NOW = "2026-01-01T00:00:00Z", 1767225600.0
SERVICE: dict[str, Any] = {"metadata": {"name": "tiny"}}


def deployment(replicas: int = 1, **status: Any) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": replicas}, "status": status}


def pod(*conditions: tuple[str, str, str], uid: str = "u1", **more: Any) -> dict[str, Any]:
    said = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    metadata = {"name": "p", "uid": uid, "creationTimestamp": STAMP, **more.pop("metadata", {})}
    status = {"conditions": said, **more.pop("status", {})}
    return {"metadata": metadata, "spec": {"containers": [], **more}, "status": status}


def container(name: str = "kserve-container", **state: Any) -> dict[str, Any]:
    last = state.pop("last", {})
    return {
        "name": name,
        "image": "vllm:1",
        "restartCount": state.pop("restarts", 0),
        "state": state,
        "lastState": last,
    }


SCHEDULED = ("PodScheduled", "True", "")


def report(*pods: dict[str, Any], later: float = 10.0, **seen: Any) -> Any:
    return status_of(ObservedModel(SERVICE, deployment(), pods, **seen), MODEL, now=NOW + later)


def test_a_model_without_objects_is_asleep() -> None:
    assert status_of(ObservedModel(), MODEL, now=NOW).phase is Phase.ASLEEP
    assert status_of(ObservedModel(SERVICE, deployment(0)), MODEL, now=NOW).phase is Phase.ASLEEP


def test_a_terminating_pod_is_stopping() -> None:
    leaving = pod(("Ready", "True", ""), metadata={"deletionTimestamp": STAMP})
    assert status_of(ObservedModel(SERVICE, deployment(0), [leaving]), MODEL, now=NOW).phase is Phase.STOPPING


def test_kserves_stop_annotation_means_asleep() -> None:
    stopped = {"metadata": {"name": "tiny", "annotations": {"serving.kserve.io/stop": "true"}}}
    assert status_of(ObservedModel(stopped, None), MODEL, now=NOW).phase is Phase.ASLEEP


def test_one_ready_pod_is_ready() -> None:
    waiting = pod(SCHEDULED, status={"containerStatuses": [container(waiting={"reason": "ContainerCreating"})]})
    status = report(waiting, pod(SCHEDULED, ("Ready", "True", "")))
    assert (status.phase, status.progress, status.message) == (Phase.READY, 1.0, "")


def test_the_schedulers_reason_is_reported() -> None:
    unschedulable = pod(("PodScheduled", "False", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."))
    assert report(unschedulable).phase is Phase.QUEUED
    assert report(unschedulable).message == (
        "waiting for a node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    assert "for 20 minutes" in report(unschedulable, later=1200).message


def test_the_queue_position_is_reported() -> None:
    gated = pod(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    workloads = [workload("u0", "True", ""), workload("u9", "False", ""), workload("u1", "False", "insufficient quota")]
    status = report(gated, workloads=workloads)
    assert status.phase is Phase.QUEUED
    assert status.message == "waiting for quota, number 2 of 2 in the queue: insufficient quota"


def test_a_pod_for_which_kueue_does_nothing_says_so() -> None:
    gated = pod(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    other, own = workload("u9", "False", ""), workload("u1", "True", "")
    assert report(gated, workloads=[other]).message == "waiting for quota"
    assert "its queue or its priority class may be missing" in report(gated, workloads=[other], later=30).message
    assert report(gated, workloads=[own], later=30).message == "waiting for quota"


def workload(uid: str, reserved: str, message: str) -> dict[str, Any]:
    conditions = [{"type": "QuotaReserved", "status": reserved, "message": message}]
    return {"metadata": {"ownerReferences": [{"uid": uid}]}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("status", "phase", "words"),
    [
        ({}, Phase.STARTING, "the node"),
        (
            {"initContainerStatuses": [container("storage-initializer", running={})]},
            Phase.STARTING,
            "weights are being fetched",
        ),
        ({"containerStatuses": [container(waiting={"reason": "ContainerCreating"})]}, Phase.STARTING, "image"),
        ({"containerStatuses": [container(running={})]}, Phase.LOADING, "engine loads"),
        (
            {"containerStatuses": [container(waiting={"reason": "ImagePullBackOff", "message": "no such host"})]},
            Phase.FAILED,
            "image vllm:1: ImagePullBackOff: no such host. Check",
        ),
        (
            {
                "containerStatuses": [
                    container(
                        waiting={"reason": "CrashLoopBackOff"},
                        last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                    )
                ]
            },
            Phase.FAILED,
            "out of memory",
        ),
        (
            {
                "containerStatuses": [
                    container(
                        waiting={"reason": "CrashLoopBackOff"},
                        last={"terminated": {"exitCode": 1, "reason": "Error", "message": "ValueError: no such arg"}},
                        restarts=4,
                    )
                ]
            },
            Phase.FAILED,
            "exit status 1, 4 restarts. ValueError: no such arg",
        ),
        (
            {
                "initContainerStatuses": [
                    container(
                        "storage-initializer",
                        waiting={"reason": "CrashLoopBackOff"},
                        last={"terminated": {"exitCode": 1, "message": "404 Not Found"}},
                        restarts=2,
                    )
                ]
            },
            Phase.FAILED,
            "weights could not be fetched: exit status 1, 2 restarts. 404 Not Found",
        ),
    ],
)
def test_kubelet_states_become_phases_and_causes(status: dict[str, Any], phase: Phase, words: str) -> None:
    found = report(pod(SCHEDULED, status=status))
    assert found.phase is phase
    assert words in found.message


def test_progress_and_estimate_use_the_pods_age() -> None:
    starting = pod(SCHEDULED, status={"containerStatuses": [container(running={})]})
    assert (report(starting, later=25).progress, report(starting, later=25).estimate_seconds) == (0.25, 75.0)
    assert report(starting, later=1000).progress == 0.97


def test_a_pod_rejected_by_the_cluster_is_reported() -> None:
    refused = deployment(conditions=[{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: cpu"}])
    status = status_of(ObservedModel(SERVICE, refused), MODEL, now=NOW)
    assert (status.phase, status.message) == (Phase.QUEUED, "the cluster refuses the pod: exceeded quota: cpu")


def test_errors_of_kserve_are_reported() -> None:
    info = {"reason": "RuntimeNotRecognized", "message": "no runtime vllm-x"}
    service = {**SERVICE, "status": {"modelStatus": {"lastFailureInfo": info}}}
    status = status_of(ObservedModel(service, None), MODEL, now=NOW)
    assert (status.phase, status.message) == (Phase.FAILED, "KServe refuses the model: no runtime vllm-x")
