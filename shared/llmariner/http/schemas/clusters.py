"""Bodies of the routes of clusters, and of what their agents report."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from llmariner.clusters.clusters import DEFAULT_OVERLAP_SECONDS
from llmariner.clusters.device_plugin import MAX_REPLICAS, DevicePluginConfig, MigStrategy
from llmariner.clusters.heartbeats import MAX_CHANGED_JOBS, Component, ConfigResult, Heartbeat
from llmariner.clusters.inventory import MAX_GPU_PODS, MAX_NODES, MAX_PRODUCTS, Inventory
from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body

__all__ = ["AgentHeartbeat", "ConfigBody", "CreateCluster", "RotateRegistrationKey"]

_MAX_COMPONENTS = 32
_Replicas = Annotated[int, Field(ge=2, le=MAX_REPLICAS)]


class CreateCluster(Body):
    """POST /v1/clusters."""

    name: str


class RotateRegistrationKey(Body):
    """POST /v1/clusters/{id}:rotateKey."""

    overlap_seconds: int = DEFAULT_OVERLAP_SECONDS


class Sharing(Body):
    """`gpus`: as how many GPUs each counts."""

    gpus: _Replicas


class Mig(Body):
    """`strategy`: how the plugin shows the instances of partitioned GPUs."""

    strategy: Annotated[MigStrategy, Field(strict=False)]


class DevicePlugin(Body):
    """`time_slicing` is LLMariner's; `mps` and `mig` are ours."""

    time_slicing: Sharing | None = None
    mps: Sharing | None = None
    mig: Mig | None = None


class ConfigBody(Body):
    """POST and PATCH /v1/clusters/{id}/config."""

    device_plugin_config: DevicePlugin

    def changed(self, current: DevicePluginConfig | None = None) -> DevicePluginConfig:
        """The configuration, or `current` with the fields that the body has; null takes one away. InvalidRequest."""
        sent = self.device_plugin_config.model_dump(include=self.device_plugin_config.model_fields_set, mode="json")
        merged: dict[str, Any] = {**(current.to_json() if current else {}), **sent}
        try:
            return DevicePluginConfig.from_json(merged)
        except ValueError as error:
            raise InvalidRequest(str(error), param="device_plugin_config") from error


# No control characters (C0, C1), and none that change lines or the direction of text: people read these in terminals.
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
_Name = Annotated[str, StringConstraints(max_length=253, pattern=_PRINTABLE)]
_Message = Annotated[str, StringConstraints(max_length=1024, pattern=_PRINTABLE)]
_Version = Annotated[str, StringConstraints(max_length=64, pattern=_PRINTABLE)]
_Product = Annotated[str, StringConstraints(max_length=64, pattern=_PRINTABLE)]
_ComponentName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_PRINTABLE)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Amount = Annotated[int, Field(ge=0, le=2**53)]


class _Reported(BaseModel):
    """What an agent reports: bounded, and without fields that this version does not know."""

    model_config = ConfigDict(extra="ignore", strict=True)


class ReportedComponent(_Reported):
    """See `heartbeats.Component`."""

    name: _ComponentName
    is_healthy: bool
    message: _Message = ""
    version: _Version = ""


class ReportedConfig(_Reported):
    """See `heartbeats.ConfigResult`."""

    generation: _Amount
    applied: bool
    message: _Message = ""


class ReportedNode(_Reported):
    """See `inventory.Node`."""

    name: _Name
    ready: bool = True
    schedulable: bool = True
    gpu_product: _Product = ""
    gpu_resource: _Name = ""
    gpus: _Count = 0
    allocated_gpus: _Count = 0
    gpu_memory_mib: _Amount = 0
    cpu_millis: _Amount = 0
    memory_bytes: _Amount = 0


class ReportedPod(_Reported):
    """See `inventory.GpuPod`."""

    namespace: _Name
    name: _Name
    gpu_resource: _Name
    gpus: _Count
    node: _Name = ""


class ReportedProduct(_Reported):
    """See `inventory.ProductTotal`."""

    product: _Product = ""
    gpu_resource: _Name = ""
    nodes: _Count = 0
    ready_nodes: _Count = 0
    gpus: _Count = 0
    allocated_gpus: _Count = 0
    gpu_memory_mib: Annotated[int, Field(ge=0, le=2**40)] = 0
    cpu_millis: _Amount = 0
    allocated_cpu_millis: _Amount = 0
    memory_bytes: _Amount = 0
    allocated_memory_bytes: _Amount = 0
    pods: _Count = 0


class ReportedInventory(_Reported):
    """See `inventory.Inventory`."""

    products: Annotated[list[ReportedProduct], Field(max_length=MAX_PRODUCTS)] = []
    nodes: Annotated[list[ReportedNode], Field(max_length=MAX_NODES)] = []
    gpu_pods: Annotated[list[ReportedPod], Field(max_length=MAX_GPU_PODS)] = []
    workloads: _Count = 0


class AgentHeartbeat(_Reported):
    """POST /v1/clusters/agent/heartbeats."""

    protocol_version: Annotated[int, Field(ge=0, le=1_000_000)]
    agent_version: _Version
    kubernetes_version: _Version = ""
    sent_at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
    components: Annotated[list[ReportedComponent], Field(max_length=_MAX_COMPONENTS)] = []
    control_plane_url: Annotated[str, Field(max_length=512, pattern=r"^(https?://[!-~]+)?$")] = ""
    inventory: ReportedInventory | None = None
    config: ReportedConfig | None = None
    changed_jobs: Annotated[list[_Name], Field(max_length=MAX_CHANGED_JOBS)] = []

    def to_heartbeat(self) -> Heartbeat:
        """As the domain has it."""
        return Heartbeat(
            agent_version=self.agent_version,
            protocol_version=self.protocol_version,
            kubernetes_version=self.kubernetes_version,
            sent_at=self.sent_at,
            control_plane_url=self.control_plane_url,
            components=tuple(Component(**each.model_dump()) for each in self.components),
            inventory=None if self.inventory is None else Inventory.from_json(self.inventory.model_dump()),
            config=None if self.config is None else ConfigResult(**self.config.model_dump()),
            changed_jobs=tuple(self.changed_jobs),
        )
