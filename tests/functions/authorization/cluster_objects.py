"""Calls of the routes of clusters."""

from __future__ import annotations

from typing import Any

from llmariner.clusters.tables import cluster_configs, cluster_snapshots, clusters
from llmariner.showback.tables import gpu_node_hours

from .route_calls import CallFactory, RouteCall, no_object
from .world import Tenant, World

__all__ = ["CLUSTER_OBJECTS", "cluster"]

HEARTBEAT = {"protocol_version": 1, "agent_version": "0.4.0", "sent_at": 1.5}
SHARING = {"device_plugin_config": {"time_slicing": {"gpus": 2}}}


def cluster(world: World, tenant: Tenant, *, configured: bool = False) -> str:
    """The id of a new cluster of the tenant's organization."""
    id_ = f"cluster-{tenant.tag}-{world.number()}"
    world.add(clusters, id=id_, organization_id=tenant.organization_id, name=id_, created_at=1)
    if configured:
        text = '{"time_slicing": {"gpus": 2}}'
        world.add(cluster_configs, cluster_id=id_, generation=1, device_plugin=text, created_at=1, updated_at=1)
    return id_


def a_cluster(body: Any = None, *, configured: bool = False) -> CallFactory:
    """A cluster of the tenant's organization."""
    return lambda world, tenant: RouteCall({"id": cluster(world, tenant, configured=configured)}, body)


def a_new_cluster(world: World, _tenant: Tenant) -> RouteCall:
    """A body with a name that is not taken."""
    return RouteCall(body={"name": f"walked {world.number()}"})


def a_snapshot(world: World, tenant: Tenant) -> RouteCall:
    """Telemetry of the tenant's organization."""
    sums = dict.fromkeys(("nodes", "gpus", "allocated_gpus", "gpu_memory_mib", "pods"), 1)
    row = {"cluster_id": f"cluster-{tenant.tag}-{world.number()}", "hour": 3600, "product": "", "samples": 1}
    world.add(cluster_snapshots, **row, **sums, organization_id=tenant.organization_id)
    return RouteCall(query="filter.end_timestamp=7200")


def gpu_use(world: World, tenant: Tenant) -> RouteCall:
    """The use of GPUs of a cluster of the tenant's organization."""
    cluster_id = f"cluster-{tenant.tag}-{world.number()}"
    world.add(clusters, id=cluster_id, organization_id=tenant.organization_id, name=cluster_id, created_at=1)
    use = dict.fromkeys(("max_gpus", "avg_gpus", "max_memory_mib", "avg_memory_mib"), 1.0)
    world.add(gpu_node_hours, hour=3600, cluster_id=cluster_id, node="node-1", **use)
    return RouteCall(query="filter.end_timestamp=7200")


_CLUSTER = "/v1/clusters/{id}"
CLUSTER_OBJECTS: dict[str, CallFactory] = {
    "GET /v1/clusters": no_object,
    "POST /v1/clusters": a_new_cluster,
    f"GET {_CLUSTER}": a_cluster(),
    f"DELETE {_CLUSTER}": a_cluster(),
    f"POST {_CLUSTER}:rotateKey": a_cluster({}),
    f"POST {_CLUSTER}:revokeKey": a_cluster(),
    f"POST {_CLUSTER}:drain": a_cluster(),
    f"POST {_CLUSTER}:undrain": a_cluster(),
    f"GET {_CLUSTER}/config": a_cluster(configured=True),
    f"POST {_CLUSTER}/config": a_cluster(SHARING),
    f"PATCH {_CLUSTER}/config": a_cluster(SHARING, configured=True),
    f"DELETE {_CLUSTER}/config": a_cluster(configured=True),
    "GET /v1/clustertelemetry/clustersnapshots": a_snapshot,
    "GET /v1/clustertelemetry/gpu-usages": gpu_use,
    "GET /v1/jobs/clusters": no_object,
    "GET /v1/jobs/summaries": no_object,
    "POST /v1/clusters/agent/heartbeats": lambda _world, _tenant: RouteCall(body=HEARTBEAT),
}
