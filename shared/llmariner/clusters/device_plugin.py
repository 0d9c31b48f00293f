"""How the GPUs of a cluster are shared: the configuration of NVIDIA's device plugin. Imports the standard library alone.

The format of the plugin's file, and what may be combined, is that of NVIDIA's k8s-device-plugin (`version: v1`): a GPU is
shared by time slicing or by MPS; MPS does not go with MIG.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["CONFIG_KEY", "CONFIG_MAP", "MAX_REPLICAS", "DevicePluginConfig", "MigStrategy"]

CONFIG_MAP, CONFIG_KEY = "llmariner-device-plugin-config", "llmariner-default"
"""The ConfigMap that the GPU operator's ClusterPolicy names, and the key of its default."""
MAX_REPLICAS = 64
_RESOURCE = "nvidia.com/gpu"


class MigStrategy(StrEnum):
    """How the plugin shows the instances of GPUs that are partitioned by MIG."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


@dataclass(frozen=True)
class DevicePluginConfig:
    """Each GPU counts as `time_slices` or `mps_clients` GPUs, 0: as one. ValueError for what can't be combined."""

    time_slices: int = 0
    mps_clients: int = 0
    mig_strategy: MigStrategy = MigStrategy.NONE

    def __post_init__(self) -> None:
        """Check the combination."""
        if self.time_slices and self.mps_clients:
            raise ValueError("GPUs are shared by time slicing or by MPS, not by both: send one of them.")
        if self.mps_clients and self.mig_strategy is not MigStrategy.NONE:
            raise ValueError("GPUs that are partitioned by MIG are not shared by MPS: send one of them.")
        if not (self.time_slices or self.mps_clients or self.mig_strategy is not MigStrategy.NONE):
            raise ValueError("Say how GPUs are shared: 'time_slicing', 'mps' or 'mig'.")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DevicePluginConfig:
        """The configuration of `to_json`. ValueError."""

        def gpus(name: str) -> int:
            return int((value.get(name) or {}).get("gpus") or 0)

        strategy = MigStrategy((value.get("mig") or {}).get("strategy") or "none")
        return cls(gpus("time_slicing"), gpus("mps"), strategy)

    def to_json(self) -> dict[str, Any]:
        """As the API has it: LLMariner's `time_slicing`, and beside it `mps` and `mig`."""
        shared = {"time_slicing": self.time_slices, "mps": self.mps_clients}
        partitioned = self.mig_strategy is not MigStrategy.NONE
        return {
            **{name: {"gpus": number} for name, number in shared.items() if number},
            **({"mig": {"strategy": self.mig_strategy.value}} if partitioned else {}),
        }

    def config_map(self, namespace: str) -> dict[str, Any]:
        """The ConfigMap with the plugin's file; JSON is YAML, too."""
        sharing: dict[str, Any] = {}
        if self.time_slices:
            resources = [{"name": _RESOURCE, "replicas": self.time_slices}]
            sharing["timeSlicing"] = {"failRequestsGreaterThanOne": True, "resources": resources}
        if self.mps_clients:
            sharing["mps"] = {"resources": [{"name": _RESOURCE, "replicas": self.mps_clients}]}
        file = {"version": "v1", "flags": {"migStrategy": self.mig_strategy.value}}
        file |= {"sharing": sharing} if sharing else {}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/managed-by": "llmariner-agent"},
            },
            "data": {CONFIG_KEY: json.dumps(file, indent=2)},
        }
