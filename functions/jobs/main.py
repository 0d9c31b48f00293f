"""GET /v1/jobs/clusters and /v1/jobs/summaries: where a project's jobs may run, and how many there are, as in LLMariner."""

import math
import time
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import StringConstraints

from llmariner.batch_jobs.summaries import COUNTS, JOB_TYPES, job_summaries
from llmariner.clusters.assignments import assigned_clusters
from llmariner.clusters.cluster import Cluster
from llmariner.clusters.status import ClusterStatus
from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import ClusterCursor, Limit
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.tenancy.principal import Caller

READ = "api.fine_tuning.jobs.read"
Reader = Annotated[Caller, require_scope(READ)]
ClusterReader = Annotated[Caller, require_scope(READ, objects="clusters")]
# As protobuf's JSON has durations.
Duration = Annotated[str | None, StringConstraints(pattern=r"^[0-9]{1,9}s$"), Query(alias="filter.duration")]
_DEFAULT_SPAN = 7 * 86400
_MAX_DATAPOINTS = 1000


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("jobs", context)
    app.get("/v1/jobs/clusters")(list_clusters)
    app.get("/v1/jobs/summaries")(list_summaries)
    return app


def list_clusters(
    request: Request, caller: ClusterReader, after: ClusterCursor = None, limit: Limit = 20
) -> dict[str, Any]:
    """The clusters of the caller's project, without one of its organization, with their GPUs.

    Pods are named for callers alone who may read clusters.
    """
    context, project_id = context_of(request), caller.project_id
    found, more = assigned_clusters(context.database, caller.organization_id, project_id, after=after, limit=limit)
    statuses = context.clusters.statuses.of([each.id for each in found], whole=True)
    named = "api.clusters.read" in caller.scopes
    shown = [_cluster(each, statuses.get(each.id), named=named and not each.is_local) for each in found]
    return {"clusters": shown, "has_more": more}


def list_summaries(
    request: Request,
    caller: Reader,
    start: Annotated[Timestamp | None, Query(alias="filter.start_timestamp")] = None,
    end: Annotated[Timestamp | None, Query(alias="filter.end_timestamp")] = None,
    duration: Duration = None,
) -> dict[str, Any]:
    """Numbers of the project's jobs by the interval of their creation; by default one of a week. 0 means the default."""
    until = end or math.ceil(time.time()) + 1
    since = start or max(0, until - _DEFAULT_SPAN)
    if since >= until:
        raise InvalidRequest("The interval is empty: it ends before it begins.", param="filter.start_timestamp")
    width = int((duration or "0s").removesuffix("s")) or until - since
    if (until - since) / width > _MAX_DATAPOINTS:
        raise InvalidRequest(
            f"That is more than {_MAX_DATAPOINTS} intervals: ask for longer ones.", param="filter.duration"
        )
    database, project_id = context_of(request).database, caller.key_owner.project_id
    found = job_summaries(database, project_id, start=since, end=until, width=width)
    return {
        "datapoints": [
            {"timestamp": at, "values": [_value(type_, found.get(at, {}).get(type_)) for type_ in JOB_TYPES]}
            for at in range(since, until, width)
        ]
    }


def _value(type_: str, counts: dict[str, int] | None) -> dict[str, Any]:
    return {"job_type": type_, **{f"total_{name}": (counts or {}).get(name, 0) for name in COUNTS}}


def _cluster(cluster: Cluster, status: ClusterStatus | None, *, named: bool) -> dict[str, Any]:
    inventory = status.inventory if status else None
    nodes = inventory.nodes if inventory else ()
    pods = inventory.gpu_pods if inventory else ()
    gpu_nodes = [{"resource_name": each.gpu_resource, "allocatable_count": each.gpus} for each in nodes if each.gpus]
    gpu_pods = [
        {
            "resource_name": each.gpu_resource,
            "allocated_count": each.gpus,
            "namespaced_name": f"{each.namespace}/{each.name}",
        }
        for each in pods
        if each.node
    ]
    return {
        "id": cluster.id,
        "name": cluster.name,
        "status": {"gpu_nodes": gpu_nodes, "provisionable_resources": [], "gpu_pods": gpu_pods if named else []},
        "summary": {
            "gpu_capacity": inventory.total("gpus") if inventory else 0,
            "gpu_allocated": inventory.total("allocated_gpus") if inventory else 0,
            "gpu_pod_count": len(gpu_pods),
        },
        "last_updated_at": int(status.inventory_at) if status and status.inventory_at else None,
    }


handle = http_function(build)
