"""Pods, lists, tables and discovery as Kubernetes' API shows them, of what one machine has."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from llmariner import __version__
from llmariner.errors import NotFound
from llmariner.sessions.machine.log_options import CONTAINER
from llmariner.sessions.machine.pods import MachinePod

__all__ = ["discovery", "event_list", "labels", "pod_fields", "pod_list", "pod_object", "pod_table"]

_READ = ["get", "list", "watch"]
_PODS = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": _READ, "shortNames": ["po"]}
_LOG = {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
_EVENTS = {"name": "events", "singularName": "event", "namespaced": True, "kind": "Event", "verbs": ["list"]}
_DISCOVERY: dict[bytes, dict[str, Any]] = {
    b"/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    b"/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [_PODS, _LOG, _EVENTS]},
    b"/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
}
_CLIENT = re.compile(rb"kubectl\S*/v1\.([0-9]{1,3})\.")
_TESTED_MINOR = "34"
_COLUMNS = (("Name", "string"), ("Ready", "string"), ("Status", "string"), ("Restarts", "integer"), ("Age", "string"))
_WIDE = (("Job", "string"), ("Message", "string"))


def discovery(path: bytes, client: bytes) -> dict[str, Any]:
    """What there is at a path without a resource. `client`: its User-Agent. NotFound."""
    if path == b"/version":
        return _kubernetes_version(client)
    if path not in _DISCOVERY:
        raise NotFound("This machine has no Kubernetes: it serves pods of the group v1, their logs and events.")
    return _DISCOVERY[path]


def _kubernetes_version(client: bytes) -> dict[str, Any]:
    """The version that kubectl itself has: what is served here is of no version, and it warns of other ones."""
    found = _CLIENT.match(client)
    minor = found[1].decode() if found else _TESTED_MINOR
    empty = dict.fromkeys(("gitCommit", "gitTreeState", "goVersion", "compiler"), "")
    known = {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0+llmariner-{__version__}"}
    return {**known, **empty, "buildDate": "1970-01-01T00:00:00Z", "platform": "linux"}


def pod_object(pod: MachinePod, namespace: str) -> dict[str, Any]:
    """The pod."""
    state, container = _state(pod), {"name": CONTAINER, "image": pod.image}
    ready, started = pod.phase == "Running" and pod.ready, pod.started_at is not None
    status: dict[str, Any] = {
        "phase": pod.phase,
        "reason": pod.reason,
        "message": pod.message,
        "startTime": _time(pod.started_at or pod.created_at),
        "containerStatuses": [
            {
                **container,
                "imageID": "",
                "ready": ready,
                "started": started,
                "restartCount": pod.restarts,
                "state": state,
                "lastState": {},
            }
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(pod, namespace),
        "spec": {"containers": [container], "restartPolicy": "Never"},
        "status": status,
    }


def pod_fields(pod: MachinePod, namespace: str) -> dict[str, str]:
    """What selectors of fields may name."""
    return {"metadata.name": pod.name, "metadata.namespace": namespace, "status.phase": pod.phase}


def pod_list(pods: Sequence[MachinePod], namespace: str, next_: str, read_at: float) -> dict[str, Any]:
    """A page of pods. `read_at`: a watch tells of what changed since, Unix seconds."""
    items = [pod_object(each, namespace) for each in pods]
    return {"apiVersion": "v1", "kind": "PodList", "metadata": _page(next_, _resource_version(read_at)), "items": items}


def pod_table(pods: Sequence[MachinePod], namespace: str, next_: str, read_at: float, *, whole: bool) -> dict[str, Any]:
    """A page as kubectl prints it. `whole`: with all of each pod, else with its metadata."""
    columns = [*((name, kind, 0) for name, kind in _COLUMNS), *((name, kind, 1) for name, kind in _WIDE)]
    described = [
        {
            "name": name,
            "type": kind,
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for name, kind, priority in columns
    ]
    rows = []
    for pod in pods:
        shown = (
            "".join(word.capitalize() for word in pod.reason.split("_"))
            if pod.phase in ("Pending", "Failed")
            else pod.phase
        )
        ready = "1/1" if pod.phase == "Running" and pod.ready else "0/1"
        cells = [
            pod.name,
            ready,
            shown,
            pod.restarts,
            _age(pod.created_at),
            f"{pod.kind}/{pod.title or pod.job_id}",
            pod.message,
        ]
        metadata = {
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": _metadata(pod, namespace),
        }
        rows.append({"cells": cells, "object": pod_object(pod, namespace) if whole else metadata})
    table = {"apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": _page(next_, _resource_version(read_at))}
    return {**table, "columnDefinitions": described, "rows": rows}


def labels(pod: MachinePod) -> dict[str, str]:
    """Of a pod: what it is, the job, and the name of a notebook or model."""
    found = {"llmariner.ai/kind": pod.kind}
    if pod.job_id:
        found["batch.kubernetes.io/job-name"] = pod.job_id
    return {**found, "llmariner.ai/name": pod.title} if pod.title else found


def event_list() -> dict[str, Any]:
    """The events of Kubernetes, of which there are none here: `kubectl describe` asks for them."""
    return {"apiVersion": "v1", "kind": "EventList", "metadata": _page("", _resource_version(time.time())), "items": []}


def _metadata(pod: MachinePod, namespace: str) -> dict[str, Any]:
    return {
        "name": pod.name,
        "namespace": namespace,
        "uid": pod.name,
        "resourceVersion": _resource_version(pod.changed_at),
        "creationTimestamp": _time(pod.created_at),
        "labels": labels(pod),
    }


def _state(pod: MachinePod) -> dict[str, Any]:
    begin = _time(pod.started_at or pod.created_at)
    if pod.phase == "Pending":
        return {"waiting": {"reason": pod.reason, "message": pod.message}}
    if pod.phase == "Running":
        return {"running": {"startedAt": begin}}
    code = 0 if pod.phase == "Succeeded" else 1
    end = _time(pod.finished_at or pod.started_at or pod.created_at)
    return {"terminated": {"exitCode": code, "reason": pod.reason, "startedAt": begin, "finishedAt": end}}


def _page(next_: str, version: str) -> dict[str, str]:
    return {"resourceVersion": version, **({"continue": next_} if next_ else {})}


def _resource_version(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _age(created_at: float) -> str:
    """As kubectl prints it, in the largest unit of which there are two."""
    seconds = max(0, int(time.time() - created_at))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
