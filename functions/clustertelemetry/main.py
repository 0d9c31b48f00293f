"""/v1/clustertelemetry: nodes and GPUs of clusters, and the use of GPUs by node, over time, as in LLMariner."""

import time
from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.snapshots import HOUR, GroupBy, SnapshotValue
from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.showback.exporters import NodeUse
from llmariner.showback.utilization import gpu_use_by_node
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization

Reader = Annotated[Caller, require_scope("api.clusters.read", objects="clusters")]
_DEFAULT_SPAN = 24 * HOUR
_MAX_HOURS = 31 * 24


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("clustertelemetry", context)
    app.get("/v1/clustertelemetry/clustersnapshots")(list_cluster_snapshots)
    app.get("/v1/clustertelemetry/gpu-usages")(list_gpu_usages)
    return app


def list_cluster_snapshots(
    request: Request,
    caller: Reader,
    start: Annotated[Timestamp | None, Query(alias="filter.start_timestamp")] = None,
    end: Annotated[Timestamp | None, Query(alias="filter.end_timestamp")] = None,
    group_by: GroupBy = GroupBy.NOTHING,
) -> dict[str, Any]:
    """Averages of each hour, by default of the last 24: in all, by cluster, or by GPU product. 0 means the default.

    `gpu_occupancy`: GPUs that pods hold; the product of nodes without a GPU is empty.
    """
    since, until = _span(start, end)
    context = context_of(request)
    operates = _operates(context, caller)
    snapshots, organization_id = context.clusters.snapshots, caller.organization_id
    hours, clusters = snapshots.by_hour(
        organization_id, start=since, end=until, group_by=group_by, include_shared=operates
    )
    if not hours:
        raise NotFound("No cluster has reported anything in that time.", code="no_snapshots")
    groups = sorted({group for values in hours.values() for group in values})
    names = snapshots.names(organization_id) if group_by is GroupBy.CLUSTER else {}
    datapoints = [
        {
            "timestamp": at,
            "values": [_value(names.get(each, each), hours.get(at, {}).get(each, SnapshotValue())) for each in groups],
        }
        for at in range(since, until, HOUR)
    ]
    return {"datapoints": datapoints, "cluster_count": clusters}


def list_gpu_usages(
    request: Request,
    caller: Reader,
    start: Annotated[Timestamp | None, Query(alias="filter.start_timestamp")] = None,
    end: Annotated[Timestamp | None, Query(alias="filter.end_timestamp")] = None,
) -> dict[str, Any]:
    """GPUs and GiB of their memory in use on each node in each hour, by default of the last 24. 0 means the default.

    A GPU that is half used counts as 0.5. An hour in which nothing was measured has zeros.
    """
    since, until = _span(start, end)
    context = context_of(request)
    names = context.clusters.snapshots.names(caller.organization_id)
    own = names.keys() - {LOCAL_CLUSTER_ID}
    visible = [*sorted(own), *([""] if _operates(context, caller) else [])]
    hours = gpu_use_by_node(context.database, visible, since, until)
    nodes = sorted({node for of_hour in hours.values() for node in of_hour})
    if not nodes:
        raise NotFound(
            "No use of GPUs was measured in that time. It is read from the Prometheus of LLMARINER_PROMETHEUS_URL, on one "
            "machine from the exporter of LLMARINER_GPU_EXPORTER_URL.",
            code="no_gpu_usages",
        )
    datapoints = [
        {"timestamp": at, "values": [_use(names, node, hours.get(at, {}).get(node, NodeUse())) for node in nodes]}
        for at in range(since, until, HOUR)
    ]
    return {"datapoints": datapoints}


def _span(start: int | None, end: int | None) -> tuple[int, int]:
    """The beginning of the first hour, and the end. Raises InvalidRequest."""
    until = end or int(time.time()) + 1
    since = (start or max(0, until - _DEFAULT_SPAN)) // HOUR * HOUR
    if since >= until:
        raise InvalidRequest("The interval is empty: it ends before it begins.", param="filter.start_timestamp")
    if until - since > _MAX_HOURS * HOUR:
        raise InvalidRequest(f"Ask for {_MAX_HOURS} hours at most.", param="filter.start_timestamp")
    return since, until


def _operates(context: Context, caller: Caller) -> bool:
    with context.database.read() as session:
        return is_default_organization(session, caller.organization_id)


def _use(names: dict[str, str], node: tuple[str, str], use: NodeUse) -> dict[str, Any]:
    cluster_id, name = node
    return {
        "cluster_name": names.get(cluster_id or LOCAL_CLUSTER_ID, cluster_id),
        "node_name": name,
        "max_gpu_used": round(use.max_gpus, 3),
        "avg_gpu_used": round(use.avg_gpus, 3),
        "max_gpu_memory_used_gb": round(use.max_memory_mib / 1024, 3),
        "avg_gpu_memory_used_gb": round(use.avg_memory_mib / 1024, 3),
    }


def _value(group: str, value: SnapshotValue) -> dict[str, Any]:
    return {
        "grouping_value": group,
        "node_count": round(value.nodes),
        "gpu_capacity": round(value.gpus),
        "memory_capacity_gb": round(value.gpu_memory_mib / 1024),
        "gpu_occupancy": round(value.allocated_gpus, 3),
        "pod_count": round(value.pods),
    }


handle = http_function(build)
