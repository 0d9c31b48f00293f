"""Applies the configuration of shared GPUs, as the control plane has it, to the cluster of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.clusters.device_plugin import CONFIG_MAP, DevicePluginConfig
from llmariner.errors import PlatformError
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.resources import CONFIG_MAPS

__all__ = ["GpuSharing"]

_MANAGER = "llmariner-agent"
_MAX_MESSAGE = 1000


class GpuSharing:
    """`namespace`: of the GPU operator; empty: the agent has no right there. `result`: of the newest generation, or None."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.result: dict[str, Any] | None = None

    def apply(self, wanted: Mapping[str, Any] | None) -> None:
        """Apply the newest generation, unless it is applied already. Never raises: failures are the `result`."""
        if wanted is None or not isinstance(wanted.get("generation"), int):
            return
        generation = wanted["generation"]
        if self.result is not None and self.result["generation"] == generation and self.result["applied"]:
            return
        try:
            self._write(wanted.get("config"))
        except (ClusterError, PlatformError, ValueError, TypeError, AttributeError) as error:
            message = "".join(each if each.isprintable() else " " for each in str(error))
            self.result = {"generation": generation, "applied": False, "message": message[:_MAX_MESSAGE]}
        else:
            self.result = {"generation": generation, "applied": True, "message": ""}

    def _write(self, config: Mapping[str, Any] | None) -> None:
        if not self._namespace:
            if config is None:
                return
            raise ValueError(
                "The agent has no right in a namespace of a GPU operator: join the cluster again with "
                "--gpu-operator-namespace."
            )
        if config is None:
            self._cluster.delete(CONFIG_MAPS, self._namespace, CONFIG_MAP)
            return
        body = DevicePluginConfig.from_json(config).config_map(self._namespace)
        self._cluster.apply(body, manager=_MANAGER, force=True)
