"""The JSON of clusters. Fields of the original LLMariner keep their names; times are Unix seconds."""

from __future__ import annotations

from typing import Any

from llmariner.clusters.cluster import Cluster
from llmariner.clusters.configs import ClusterConfig
from llmariner.clusters.inventory import Inventory
from llmariner.clusters.status import ClusterStatus

__all__ = ["cluster_object", "config_object"]


def cluster_object(
    cluster: Cluster, status: ClusterStatus | None, *, is_own: bool, whole: bool = False, key: str | None = None
) -> dict[str, Any]:
    """A cluster. `key`: its new registration key. `whole`: with the nodes of its inventory.

    `is_own` False: the caller's organization only shares it, and sees neither keys nor what others use there.
    """
    shown = status if is_own else None
    inventory = shown.inventory if shown else None
    return {
        "id": cluster.id,
        "object": "cluster",
        "name": cluster.name,
        "organization_id": cluster.organization_id,
        "is_local": cluster.is_local,
        "created_at": cluster.created_at,
        "status": _status(cluster, status),
        "draining": cluster.drain_requested_at is not None,
        "deleting": cluster.delete_requested_at is not None,
        **({"registration_key": key} if key else {}),
        "key": _key(cluster) if is_own else None,
        "agent": None if shown is None else _agent(shown),
        "component_statuses": _components(shown),
        "summary": None if inventory is None else _summary(inventory),
        **({"inventory": None if shown is None or inventory is None else _whole(shown, inventory)} if whole else {}),
    }


def config_object(config: ClusterConfig) -> dict[str, Any]:
    """The configuration of a cluster's GPUs, and what became of it there."""
    return {
        "object": "cluster.config",
        "cluster_id": config.cluster_id,
        "device_plugin_config": config.device_plugin.to_json(),
        "generation": config.generation,
        "status": config.status,
        "message": config.message,
        "created_at": config.created_at,
        "updated_at": config.updated_at,
    }


def _status(cluster: Cluster, status: ClusterStatus | None) -> str:
    """`pending`: no agent has reported yet. The control plane's own is there while it answers."""
    if status is None:
        return "connected" if cluster.is_local else "pending"
    return "connected" if status.is_connected or cluster.is_local else "disconnected"


def _key(cluster: Cluster) -> dict[str, Any] | None:
    if cluster.key_prefix is None:
        return None
    return {
        "prefix": cluster.key_prefix,
        "created_at": cluster.key_created_at,
        "previous_expires_at": None if (at := cluster.previous_key_expires_at) is None else int(at),
    }


def _agent(status: ClusterStatus) -> dict[str, Any]:
    skew = status.clock_skew_seconds
    return {
        "version": status.agent_version,
        "protocol_version": status.protocol_version,
        "kubernetes_version": status.kubernetes_version or None,
        "last_heartbeat_at": int(status.heartbeat_at),
        "clock_skew_seconds": None if skew is None else round(skew, 1),
    }


def _components(status: ClusterStatus | None) -> dict[str, Any]:
    components = {} if status is None else status.components
    return {
        name: {"is_healthy": each.is_healthy, "message": each.message, "version": each.version or None}
        for name, each in components.items()
    }


def _summary(inventory: Inventory) -> dict[str, Any]:
    return {
        "node_count": inventory.total("nodes"),
        "ready_node_count": inventory.total("ready_nodes"),
        "gpu_capacity": inventory.total("gpus"),
        "gpu_allocated": inventory.total("allocated_gpus"),
        "cpu": inventory.total("cpu_millis") / 1000,
        "cpu_allocated": inventory.total("allocated_cpu_millis") / 1000,
        "memory_bytes": inventory.total("memory_bytes"),
        "memory_allocated_bytes": inventory.total("allocated_memory_bytes"),
        "pod_count": inventory.total("pods"),
    }


def _whole(status: ClusterStatus, inventory: Inventory) -> dict[str, Any]:
    at = status.inventory_at
    return {"updated_at": None if at is None else int(at), **inventory.to_json()}
