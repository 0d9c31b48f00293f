"""Which pods of the cluster are engines of the control plane's models, and where they listen: nothing else is reached."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping
from typing import Any

from llmariner.errors import NotFound
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import PODS

__all__ = ["EnginePods"]

# KServe gives the pods of an InferenceService its name, and the labels that the control plane gave it.
_MANAGED_BY = {"app.kubernetes.io/managed-by": "llmariner"}
_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_CONTAINER, _DEFAULT_PORT = "kserve-container", 8080
# For so long a request may go to an address that another pod has by now.
_FRESH_SECONDS = 2.0
_MAX_PODS = 4096


class EnginePods:
    """Looks up pods with the agent's right to list them. For one event loop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: dict[tuple[str, str], tuple[float, asyncio.Task[str]]] = {}

    async def origin(self, namespace: str, name: str) -> str:
        """`http://address:port` of an engine's pod. NotFound for other pods; ClusterError, Unavailable as `Cluster`."""
        key, now = (namespace, name), time.monotonic()
        at, task = self._found.get(key, (float("-inf"), None))
        if task is None or now - at > _FRESH_SECONDS or (task.done() and task.exception() is not None):
            task = asyncio.create_task(asyncio.to_thread(self._look_up, namespace, name))
            self._found.pop(key, None)
            self._found[key] = (now, task)
            while len(self._found) > _MAX_PODS:
                del self._found[next(iter(self._found))]
        return await asyncio.shield(task)

    def forget(self, namespace: str, name: str) -> None:
        """The pod did not answer: look it up for the next request."""
        self._found.pop((namespace, name), None)

    def _look_up(self, namespace: str, name: str) -> str:
        # The agent may list pods, and not get them: a list of one.
        pods = self._cluster.list(PODS, namespace, labels=_MANAGED_BY, fields=f"metadata.name={name}").items
        engines = [each for each in pods if _SERVICE_LABEL in (each["metadata"].get("labels") or {})]
        address = str((engines[0].get("status") or {}).get("podIP") or "") if engines else ""
        if not address:
            raise NotFound(f"There is no engine in a pod '{namespace}/{name}'.", code="engine_not_found")
        host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
        return f"http://{host}:{_port(engines[0])}"


def _port(pod: Mapping[str, Any]) -> int:
    containers = pod["spec"]["containers"]
    container = next((each for each in containers if each["name"] == _CONTAINER), containers[0])
    return int((container.get("ports") or [{"containerPort": _DEFAULT_PORT}])[0]["containerPort"])
