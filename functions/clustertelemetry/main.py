"""GET /v1/clustertelemetry/clustersnapshots: nodes and GPUs of clusters over time, as in LLMariner."""

import time
from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.clusters.snapshots import HOUR, GroupBy, SnapshotValue
from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization

Reader = Annotated[Caller, require_scope("api.clusters.read", objects="clusters")]
_DEFAULT_SPAN = 24 * HOUR
_MAX_HOURS = 31 * 24


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("clustertelemetry", context)
    app.get("/v1/clustertelemetry/clustersnapshots")(list_cluster_snapshots)
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
    until = end or int(time.time()) + 1
    since = (start or max(0, until - _DEFAULT_SPAN)) // HOUR * HOUR
    if since >= until:
        raise InvalidRequest("The interval is empty: it ends before it begins.", param="filter.start_timestamp")
    if until - since > _MAX_HOURS * HOUR:
        raise InvalidRequest(f"Ask for {_MAX_HOURS} hours at most.", param="filter.start_timestamp")
    context = context_of(request)
    with context.database.read() as session:
        operates = is_default_organization(session, caller.organization_id)
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
