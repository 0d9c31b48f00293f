"""Kueue's Workloads as what they hold and since when, by the conditions that Kueue writes."""

from __future__ import annotations

import calendar
import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmariner.errors import Unavailable
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import NotFound
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import LOCAL_QUEUES, PODS, WORKLOADS
from llmariner.platform.serving.kserve.objects import INFERENCE_SERVICE_LABEL, MODEL_ANNOTATION
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION

__all__ = ["HeldWorkload", "KueueWorkloads", "UnreadableWorkload", "workload_key"]

_JOB_KINDS = frozenset({"Job", "JobSet", "TrainJob"})
_UNKNOWN_MODEL = "(standby)"
# Of Kubernetes: a name, a uid; and of columns: an id, a device.
_MAX_NAME, _MAX_UID, _MAX_ID, _MAX_DEVICE = 253, 64, 256, 128

Body = dict[str, Any]


def workload_key(namespace: str, name: str) -> str:
    """What the keys of all Workloads of that name begin with."""
    return f"{namespace}/{name}/"


@dataclass(frozen=True)
class HeldWorkload:
    """A Workload. `key`: its namespace, name and uid. `kind` None: a job.

    `held_ms`: since when it holds its quota, None where it does not.
    `pods`: the name of its pod, or with a dash at the end what names of its pods begin with.
    `released_ms`: when it gave back what it held before, None where it never held any or holds it now.
    `service`: the name of its InferenceService, of an engine.
    """

    key: str
    kind: str | None
    workload_id: str
    project_id: str | None
    amounts: Mapping[str, int]
    device: str
    held_ms: int | None
    released_ms: int | None
    pods: str = ""
    service: str = ""


@dataclass(frozen=True)
class UnreadableWorkload:
    """A Workload that is of another form than Kueue's. `name`: for a log."""

    name: str
    error: Exception


class KueueWorkloads:
    """Reads the Workloads of some namespaces. Methods block; they raise ClusterError.

    `deadline`: when `all` gives up, in monotonic seconds: a worker cluster may answer as slowly as it likes.
    """

    def __init__(self, cluster: Cluster, namespaces: tuple[str, ...], deadline: float = math.inf) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._deadline = deadline

    def find(self, namespace: str, name: str) -> HeldWorkload | None:
        """A Workload of one of the namespaces; None: there is none."""
        if namespace not in self._namespaces:
            return None
        found = self._cluster.get(WORKLOADS, namespace, name)
        return None if found is None else self._read(found, self._projects(namespace))

    def all(self) -> Iterator[HeldWorkload | UnreadableWorkload]:
        """All Workloads; none where the cluster has no Kueue. One that can't be read holds up no other.

        Raises Unavailable for a cluster that takes too long.
        """
        for namespace in self._namespaces:
            try:
                found = self._cluster.list(WORKLOADS, namespace).items
            except NotFound:
                continue
            projects = self._projects(namespace)
            for workload in found:
                if time.monotonic() > self._deadline:
                    raise Unavailable("The cluster takes too long for its Workloads.")
                try:
                    read = self._read(workload, projects)
                except Unavailable:
                    raise
                except Exception as error:  # a worker cluster may say anything
                    yield UnreadableWorkload(_name_for_log(workload), error)
                else:
                    yield read

    def _projects(self, namespace: str) -> dict[str, str | None]:
        found = {}
        for queue in self._cluster.list(LOCAL_QUEUES, namespace).items:
            with contextlib.suppress(AttributeError, KeyError, TypeError):
                annotations = queue["metadata"].get("annotations", {})
                found[queue["metadata"]["name"]] = annotations.get(PROJECT_ANNOTATION)
        return found

    def _read(self, workload: Body, projects: Mapping[str, str | None]) -> HeldWorkload:
        kind, workload_id, pods, service = self._owner(workload)
        held, released = _times(workload)
        amounts, device = _admitted(workload)
        project_id = projects.get(workload["spec"].get("queueName", ""))
        metadata = workload["metadata"]
        uid = _text(metadata["uid"], _MAX_UID)
        key = workload_key(_text(metadata["namespace"], _MAX_NAME), _text(metadata["name"], _MAX_NAME)) + uid
        workload_id, device = _text(workload_id, _MAX_ID), _text(device, _MAX_NAME)[:_MAX_DEVICE]
        return HeldWorkload(key, kind, workload_id, project_id, amounts, device, held, released, pods, service)

    def _owner(self, workload: Body) -> tuple[str | None, str, str, str]:
        """The kind and id of what a Workload is of, its pods, and its InferenceService."""
        owners = workload["metadata"].get("ownerReferences") or [{}]
        kind, name = str(owners[0].get("kind", "")), str(owners[0].get("name", ""))
        if kind in _JOB_KINDS:
            return None, name, f"{name}-", ""
        pod = self._cluster.get(PODS, workload["metadata"]["namespace"], name) if kind == "Pod" else None
        metadata = pod["metadata"] if pod is not None else {}
        service = metadata.get("labels", {}).get(INFERENCE_SERVICE_LABEL)
        model = str(metadata.get("annotations", {}).get(MODEL_ANNOTATION) or service or _UNKNOWN_MODEL)
        return "model", model, name if kind == "Pod" else "", str(service or "")


def _text(value: Any, most: int) -> str:
    """A text that the database can hold. Raises ValueError."""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError(f"{str(value)[:64]!r} is no name")
    return value


def _name_for_log(workload: Any) -> str:
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        return repr(workload["metadata"]["name"])[:100]
    return "one without a name"


def _times(workload: Body) -> tuple[int | None, int | None]:
    reserved, finished = _condition(workload, "QuotaReserved"), _condition(workload, "Finished")
    if reserved is None:
        return None, None
    if reserved["status"] != "True":
        return None, _milliseconds(reserved)
    if finished is not None and finished["status"] == "True":
        return None, max(_milliseconds(finished), _milliseconds(reserved))
    return _milliseconds(reserved), None


def _admitted(workload: Body) -> tuple[dict[str, int], str]:
    amounts, device = {"gpu": 0, "cpu": 0, "memory": 0}, ""
    for assignment in workload.get("status", {}).get("admission", {}).get("podSetAssignments", ()):
        flavors = assignment.get("flavors", {})
        for name, quantity in assignment.get("resourceUsage", {}).items():
            number = parse_quantity(quantity)
            if "/" in name:
                amounts["gpu"] += int(number)
                device = str(flavors.get(name, "")) or device
            elif name in amounts:
                amounts[name] += round(number * 1000) if name == "cpu" else int(number)
    return amounts, device


def _condition(workload: Body, kind: str) -> Body | None:
    conditions = workload.get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == kind), None)


def _milliseconds(condition: Body) -> int:
    text = str(condition["lastTransitionTime"])
    return 1000 * calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
