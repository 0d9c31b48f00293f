"""Derives a model's phase, and the cause of a failure or delay, from its Deployment, pods and Kueue workloads.

Stateless: the same objects give the same status.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmariner.platform.kube.queue_messages import public_message
from llmariner.platform.serving import EngineModel, Phase, Status
from llmariner.platform.serving.kserve.adapter_fetch import FETCH_CONTAINER

__all__ = [
    "RESERVED",
    "RESERVED_AT_ANNOTATION",
    "STANDBY_LABEL",
    "TAKEN",
    "ObservedModel",
    "is_gated",
    "is_terminating",
    "reserved_at",
    "status_of",
]

STANDBY_LABEL = "llmariner.ai/standby"
"""The label of a standby pod: its ClusterServingRuntime while available, then RESERVED or TAKEN."""
RESERVED, TAKEN = "reserved", "taken"
"""Reserved: assigned to a model, not yet a replica of its Deployment. Taken: a replica of it."""
RESERVED_AT_ANNOTATION = "llmariner.ai/reserved-at"
"""The annotation with the time at which a model reserved the pod."""

Body = dict[str, Any]

_DEFAULT_WAKE_SECONDS = 120.0
_KUEUE_GATE = "kueue.x-k8s.io/admission"
_IMAGE_FAILURES = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
)
_WEIGHTS_CONTAINERS = ("storage-initializer", FETCH_CONTAINER)
# Shorter waits are normal while nodes start.
_LONG_UNSCHEDULABLE_SECONDS = 600.0
_NO_WORKLOAD_SECONDS = 20.0


@dataclass(frozen=True)
class ObservedModel:
    """The objects of one model as they were read together.

    `service`: its InferenceService. `workloads`: all of its pool, oldest first; read only while one of its pods waits for
    quota. `cluster_service`: the Service in front of its pods.
    """

    service: Body | None = None
    deployment: Body | None = None
    pods: Sequence[Body] = ()
    workloads: Sequence[Body] = field(default=())
    cluster_service: Body | None = None

    @property
    def replicas(self) -> int:
        """The desired replicas."""
        if self.service is None or self.deployment is None or _is_stopped(self.service):
            return 0
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def asleep(self) -> bool:
        """Whether no pod runs and none is about to."""
        waits_for_kserve = self.service is not None and self.deployment is None and not _is_stopped(self.service)
        return self.replicas == 0 and not self.pods and not waits_for_kserve

    @property
    def ready(self) -> list[Body]:
        """Ready pods that the model's Service routes to."""
        ready = [pod for pod in self.pods if _condition_status(pod, "Ready") == "True" and not is_terminating(pod)]
        return [pod for pod in ready if pod["metadata"].get("labels", {}).get(STANDBY_LABEL) != RESERVED]

    @property
    def ready_since(self) -> float:
        """Unix time at which the first ready pod became ready; 0 if unknown."""
        stamps = [
            each.get("lastTransitionTime") for pod in self.ready for each in _conditions(pod) if each["type"] == "Ready"
        ]
        return min((_timestamp(stamp, 0.0) for stamp in stamps), default=0.0)


def status_of(observed: ObservedModel, model: EngineModel, *, now: float) -> Status:
    """The model's status without endpoint and engine metrics, which the adapter adds."""
    typical = model.typical_wake_seconds
    if observed.replicas == 0:
        if observed.service is not None and observed.deployment is None and not _is_stopped(observed.service):
            return _without_deployment(observed.service, typical)
        phase = Phase.STOPPING if any(is_terminating(pod) for pod in observed.pods) else Phase.ASLEEP
        return Status(phase, estimate_seconds=typical)
    if observed.ready:
        return Status(Phase.READY, progress=1.0, estimate_seconds=0.0)
    pending = [pod for pod in observed.pods if not is_terminating(pod)]
    if not pending:
        return Status(Phase.QUEUED, message=_replica_failure(observed.deployment), estimate_seconds=typical)
    newest = max(pending, key=lambda pod: pod["metadata"].get("creationTimestamp", ""))
    status = _pod_status(newest, observed.workloads, now)
    if status.phase is Phase.FAILED:
        return status
    return _with_estimate(status, newest, typical or _DEFAULT_WAKE_SECONDS, now)


def _pod_status(pod: Body, workloads: Sequence[Body], now: float) -> Status:
    if is_gated(pod):
        return Status(Phase.QUEUED, message=_queue_position(pod, workloads, now))
    if _condition_status(pod, "PodScheduled") == "False":
        return Status(Phase.QUEUED, message=_scheduling_message(pod, now))
    status = pod.get("status", {})
    for container in status.get("initContainerStatuses", ()):
        if failure := _container_failure(container):
            is_weights = container["name"] in _WEIGHTS_CONTAINERS
            step = "The weights could not be fetched" if is_weights else "A preparation failed"
            return Status(Phase.FAILED, message=f"{step}: {failure}")
        if "terminated" not in container.get("state", {}):
            return Status(Phase.STARTING, message=_init_container_message(container))
    for container in status.get("containerStatuses", ()):
        if failure := _container_failure(container):
            return Status(Phase.FAILED, message=failure)
        if "running" in container.get("state", {}):
            return Status(Phase.LOADING, message="the engine loads the model")
    return Status(Phase.STARTING, message="the node pulls the image and makes the container")


def is_gated(pod: Body) -> bool:
    """Whether a pod waits for quota."""
    return any(gate["name"] == _KUEUE_GATE for gate in pod["spec"].get("schedulingGates", ()))


def _init_container_message(container: Body) -> str:
    if "running" in container.get("state", {}) and container["name"] in _WEIGHTS_CONTAINERS:
        return "the weights are being fetched"
    return "the node pulls the image"


def _container_failure(container: Body) -> str:
    """Why a container does not start, with a remedy; empty if it has not failed."""
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_FAILURES:
        return f"image {container.get('image', '')}: {reason}: {message}. Check the image's name and the pull secret."
    over = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated") or {}
    if not over or over.get("exitCode") == 0:
        return ""
    if over.get("reason") == "OOMKilled":
        return "out of memory. Give the model more memory, or choose a smaller one."
    last = str(over.get("message", "")).strip()[-500:]
    again = f", {container.get('restartCount', 0)} restarts" if container.get("restartCount") else ""
    return f"exit status {over.get('exitCode')}{again}. {last}".strip()


def _queue_position(pod: Body, workloads: Sequence[Body], now: float) -> str:
    """A message with the pod's position among its pool's waiting workloads; or that Kueue does nothing for it."""
    waiting = [
        each for each in workloads if _condition_status(each, "QuotaReserved") != "True" and not _is_finished(each)
    ]
    for position, workload in enumerate(waiting, 1):
        if _is_of(workload, pod):
            message = public_message(_condition_message(workload, "QuotaReserved"))
            reason = f": {message}" if message else ""
            return f"waiting for quota, number {position} of {len(waiting)} in the queue{reason}"
    waited = now - _timestamp(pod["metadata"].get("creationTimestamp"), now)
    if waited > _NO_WORKLOAD_SECONDS and not any(_is_of(each, pod) for each in workloads):
        return "waiting for Kueue, which has no workload for it: its queue or its priority class may be missing"
    return "waiting for quota"


def _is_of(workload: Body, pod: Body) -> bool:
    owners = workload["metadata"].get("ownerReferences", ())
    return any(owner.get("uid") == pod["metadata"].get("uid") for owner in owners)


def _scheduling_message(pod: Body, now: float) -> str:
    waited = now - _timestamp(pod["metadata"].get("creationTimestamp"), now)
    message = _condition_message(pod, "PodScheduled") or "no node yet"
    lasting = (
        f" (for {waited / 60:.0f} minutes: add a node, or ask for less)" if waited > _LONG_UNSCHEDULABLE_SECONDS else ""
    )
    return f"waiting for a node: {message}{lasting}"


def _without_deployment(service: Body, typical: float | None) -> Status:
    """The status while KServe has not created a Deployment, or cannot."""
    info = service.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {})
    if info.get("reason") in (
        "InvalidPredictorSpec",
        "RuntimeNotRecognized",
        "RuntimeUnhealthy",
        "NoSupportingRuntime",
        "RuntimeDisabled",
    ):
        return Status(Phase.FAILED, message=f"KServe refuses the model: {info.get('message', info['reason'])}")
    return Status(Phase.QUEUED, message="KServe has not made the engine's Deployment yet", estimate_seconds=typical)


def _replica_failure(deployment: Body | None) -> str:
    message = _condition_message(deployment or {}, "ReplicaFailure")
    return f"the cluster refuses the pod: {message}" if message else "waiting for the pod"


def _with_estimate(status: Status, pod: Body, typical: float, now: float) -> Status:
    passed = max(0.0, now - reserved_at(pod, _timestamp(pod["metadata"].get("creationTimestamp"), now)))
    if status.phase is Phase.QUEUED:
        return replace(status, estimate_seconds=typical)
    progress = round(min(0.97, passed / typical), 3)
    return replace(status, progress=progress, estimate_seconds=round(max(1.0, typical - passed), 1))


def reserved_at(pod: Body, default: float) -> float:
    """Unix time at which a model reserved this standby pod."""
    return _timestamp(pod["metadata"].get("annotations", {}).get(RESERVED_AT_ANNOTATION), default)


def _is_stopped(service: Body) -> bool:
    return bool(service["metadata"].get("annotations", {}).get("serving.kserve.io/stop") == "true")


def is_terminating(pod: Body) -> bool:
    """Whether the pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def _is_finished(workload: Body) -> bool:
    return _condition_status(workload, "Finished") == "True"


def _conditions(body: Body) -> Iterable[Body]:
    found: Iterable[Body] = body.get("status", {}).get("conditions") or ()
    return found


def _condition_status(body: Body, kind: str) -> str:
    return next((str(each.get("status")) for each in _conditions(body) if each.get("type") == kind), "")


def _condition_message(body: Body, kind: str) -> str:
    return next((str(each.get("message", "")) for each in _conditions(body) if each.get("type") == kind), "")


def _timestamp(stamp: str | None, default: float) -> float:
    """An RFC 3339 time as Unix time; `default` if it does not parse, since anyone may write annotations."""
    try:
        return datetime.datetime.fromisoformat((stamp or "").replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return default
