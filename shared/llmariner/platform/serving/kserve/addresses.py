"""Where a gateway instance reaches engines: directly in the control plane's own cluster, by the tunnel in others."""

from __future__ import annotations

from typing import Any, Protocol

from llmariner.platform.serving.kserve.objects import ENGINE_CONTAINER
from llmariner.platform.serving.kserve.phases import ObservedModel

__all__ = ["DirectAddresses", "EngineAddresses", "TunnelAddresses"]

Body = dict[str, Any]


class EngineAddresses(Protocol):
    """The origins of engines, as `http_client` takes them."""

    def of_pod(self, pod: Body) -> str:
        """The origin of the engine in a pod."""

    def of_model(self, observed: ObservedModel) -> str | None:
        """The origin of a model that has ready pods; None while it has none yet."""


class DirectAddresses:
    """In the cluster in which this process runs, too."""

    def of_pod(self, pod: Body) -> str:
        """See `EngineAddresses`."""
        container = next((each for each in pod["spec"]["containers"] if each["name"] == ENGINE_CONTAINER), None)
        container = container or pod["spec"]["containers"][0]
        port = container.get("ports", [{"containerPort": 8080}])[0]["containerPort"]
        return f"http://{pod['status']['podIP']}:{port}"

    def of_model(self, observed: ObservedModel) -> str | None:
        """See `EngineAddresses`. The Service's cluster IP needs no DNS and outlives pods."""
        if observed.cluster_service is None:
            return None
        cluster_ip = observed.cluster_service["spec"].get("clusterIP", "None")
        if cluster_ip != "None":
            return f"http://{cluster_ip}:{observed.cluster_service['spec']['ports'][0]['port']}"
        return self.of_pod(observed.ready[0])


class TunnelAddresses:
    """In a worker cluster. Always of a pod: the agent reaches nothing else, and the gateway balances among replicas."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id

    def of_pod(self, pod: Body) -> str:
        """See `EngineAddresses`."""
        return f"tunnel:{self._cluster_id}/{pod['metadata']['namespace']}/{pod['metadata']['name']}"

    def of_model(self, observed: ObservedModel) -> str | None:
        """See `EngineAddresses`."""
        return min(map(self.of_pod, observed.ready), default=None)
