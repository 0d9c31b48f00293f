"""What the cluster's objects say of a model: its phase, and the cause where something is in the way.

Read from the Deployment, its pods and Kueue's workloads as they are; nothing is remembered here.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmariner.platform.serving import EngineModel, Phase, Status

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
"""The label of a pod that imported vLLM ahead: the runtime that it stands in for, then what became of it."""
RESERVED, TAKEN = "reserved", "taken"
"""It is a model's, and not yet a replica of its Deployment; and now it is."""
RESERVED_AT_ANNOTATION = "llmariner.ai/reserved-at"
"""The annotation that says when a model took such a pod."""

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
_WEIGHTS_CONTAINER = "storage-initializer"
# The kubelet needs a moment for each; less is no news.
_LONG_UNSCHEDULABLE_SECONDS = 600.0


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
        """How many are wanted."""
        if self.service is None or self.deployment is None or _stopped(self.service):
            return 0
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def asleep(self) -> bool:
        """Nothing of it runs, and nothing is about to."""
        waits_for_kserve = self.service is not None and self.deployment is None and not _stopped(self.service)
        return self.replicas == 0 and not self.pods and not waits_for_kserve

    @property
    def ready(self) -> list[Body]:
        """Pods that answer, by way of the model's Service too."""
        ready = [pod for pod in self.pods if _condition_status(pod, "Ready") == "True" and not is_terminating(pod)]
        return [pod for pod in ready if pod["metadata"].get("labels", {}).get(STANDBY_LABEL) != RESERVED]

    @property
    def ready_since(self) -> float:
        """When the first of them began to answer, in seconds since 1970; 0 where nobody says."""
        stamps = [
            each.get("lastTransitionTime") for pod in self.ready for each in _conditions(pod) if each["type"] == "Ready"
        ]
        return min((_timestamp(stamp, 0.0) for stamp in stamps), default=0.0)


def status_of(observed: ObservedModel, model: EngineModel, *, now: float) -> Status:
    """The model's state. The endpoint and what its engines are doing are not in these objects: the adapter adds them."""
    typical = model.typical_wake_seconds
    if observed.replicas == 0:
        if observed.service is not None and observed.deployment is None and not _stopped(observed.service):
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
        return Status(Phase.QUEUED, message=_queue_position(pod, workloads))
    if _condition_status(pod, "PodScheduled") == "False":
        return Status(Phase.QUEUED, message=_unscheduled(pod, now))
    status = pod.get("status", {})
    for container in status.get("initContainerStatuses", ()):
        if failure := _container_failure(container):
            is_weights = container["name"] == _WEIGHTS_CONTAINER
            step = "The weights could not be fetched" if is_weights else "A preparation failed"
            return Status(Phase.FAILED, message=f"{step}: {failure}")
        if "terminated" not in container.get("state", {}):
            return Status(Phase.STARTING, message=_preparing(container))
    for container in status.get("containerStatuses", ()):
        if failure := _container_failure(container):
            return Status(Phase.FAILED, message=failure)
        if "running" in container.get("state", {}):
            return Status(Phase.LOADING, message="the engine loads the model")
    return Status(Phase.STARTING, message="the node pulls the image and makes the container")


def is_gated(pod: Body) -> bool:
    """Whether a pod waits for quota."""
    return any(gate["name"] == _KUEUE_GATE for gate in pod["spec"].get("schedulingGates", ()))


def _preparing(container: Body) -> str:
    if "running" in container.get("state", {}) and container["name"] == _WEIGHTS_CONTAINER:
        return "the weights are being fetched"
    return "the node pulls the image"


def _container_failure(container: Body) -> str:
    """Why a container does not start, with what to do; empty while nothing is wrong."""
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


def _queue_position(pod: Body, workloads: Sequence[Body]) -> str:
    """Where in the queue a pod waits: before it are the workloads of its queue that came earlier."""
    waiting = [each for each in workloads if _condition_status(each, "QuotaReserved") != "True" and not _finished(each)]
    for position, workload in enumerate(waiting, 1):
        if any(
            owner.get("uid") == pod["metadata"].get("uid") for owner in workload["metadata"].get("ownerReferences", ())
        ):
            message = _condition_message(workload, "QuotaReserved")
            reason = f": {message}" if message else ""
            return f"waiting for quota, number {position} of {len(waiting)} in the queue{reason}"
    return "waiting for quota"


def _unscheduled(pod: Body, now: float) -> str:
    waited = now - _timestamp(pod["metadata"].get("creationTimestamp"), now)
    message = _condition_message(pod, "PodScheduled") or "no node yet"
    lasting = (
        f" (for {waited / 60:.0f} minutes: add a node, or ask for less)" if waited > _LONG_UNSCHEDULABLE_SECONDS else ""
    )
    return f"waiting for a node: {message}{lasting}"


def _without_deployment(service: Body, typical: float | None) -> Status:
    """KServe has not made one, or can't: it says why."""
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
    """When a model took it from the standby, in seconds since 1970."""
    return _timestamp(pod["metadata"].get("annotations", {}).get(RESERVED_AT_ANNOTATION), default)


def _stopped(service: Body) -> bool:
    return bool(service["metadata"].get("annotations", {}).get("serving.kserve.io/stop") == "true")


def is_terminating(pod: Body) -> bool:
    """Whether it was told to end."""
    return "deletionTimestamp" in pod["metadata"]


def _finished(workload: Body) -> bool:
    return _condition_status(workload, "Finished") == "True"


def _conditions(body: Body) -> Iterable[Body]:
    found: Iterable[Body] = body.get("status", {}).get("conditions") or ()
    return found


def _condition_status(body: Body, kind: str) -> str:
    return next((str(each.get("status")) for each in _conditions(body) if each.get("type") == kind), "")


def _condition_message(body: Body, kind: str) -> str:
    return next((str(each.get("message", "")) for each in _conditions(body) if each.get("type") == kind), "")


def _timestamp(stamp: str | None, default: float) -> float:
    """A stamp in seconds since 1970; annotations are anybody's, so one may say what is no time."""
    try:
        return datetime.datetime.fromisoformat((stamp or "").replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return default
