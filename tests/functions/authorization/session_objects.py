"""Calls of the routes of sessions: a cluster where the tenant's project has a namespace, and that no agent connects."""

from __future__ import annotations

import json

from sqlalchemy import update

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.tables import clusters
from llmariner.tenancy.tables import projects

from .route_calls import RouteCall, no_object
from .world import Tenant, World

__all__ = ["SESSION_OBJECTS"]

_SPDY = {"connection": "upgrade", "upgrade": "SPDY/3.1"}


def _cluster(world: World, tenant: Tenant) -> tuple[str, str]:
    """The id of a new cluster, and the namespace of the tenant's project there."""
    id_ = f"{tenant.tag}-sessions-{world.number()}"
    namespace = f"ns-{world.number()}"
    there = {"cluster_id": id_, "namespace": namespace, "queue": "", "node_selector": []}
    # Jobs of other rows run where they always do.
    assigned = [there, {**there, "cluster_id": LOCAL_CLUSTER_ID, "namespace": f"{namespace}-home"}]
    world.add(clusters, id=id_, organization_id=tenant.organization_id, name=id_, created_at=1)
    with world.context.database.write() as session:
        project = projects.c.id == tenant.project_id
        session.run(update(projects).where(project).values(assignments=json.dumps(assigned)))
    return id_, namespace


def discovery(world: World, tenant: Tenant) -> RouteCall:
    """What the API server of the cluster serves."""
    return RouteCall({"cluster_id": _cluster(world, tenant)[0], "path:path": "v1"})


def groups(world: World, tenant: Tenant) -> RouteCall:
    """The jobs in the namespace."""
    id_, namespace = _cluster(world, tenant)
    return RouteCall({"cluster_id": id_, "path:path": f"batch/v1/namespaces/{namespace}/jobs"})


def port_forward(world: World, tenant: Tenant) -> RouteCall:
    """A connection to a pod in the namespace."""
    id_, namespace = _cluster(world, tenant)
    path = f"v1/namespaces/{namespace}/pods/p/portforward"
    return RouteCall({"cluster_id": id_, "path:path": path}, headers=_SPDY)


def control_plane(world: World, tenant: Tenant) -> RouteCall:
    """The pods of a namespace, as the control plane asks for them."""
    return RouteCall({"cluster_id": _cluster(world, tenant)[0], "path:path": "api/v1/namespaces/n/pods"})


_SESSION = "/v1/sessions/{cluster_id}"
_OWN = "/internal/sessions/{cluster_id}/kubernetes/{path:path}"
_ENGINES = "/internal/sessions/{cluster_id}/engines/{path:path}"
_ENGINE = RouteCall({"cluster_id": "cluster-none", "path:path": "models/pod/health"})
SESSION_OBJECTS = {
    "GET /v1/sessions/agent": no_object,
    "GET /v1/sessions/peers": no_object,
    f"GET {_SESSION}/version": discovery,
    f"GET {_SESSION}/api": discovery,
    f"GET {_SESSION}/api/{{path:path}}": discovery,
    f"GET {_SESSION}/apis": discovery,
    f"GET {_SESSION}/apis/{{path:path}}": groups,
    f"POST {_SESSION}/api/{{path:path}}": port_forward,
    **{f"{method} {_ENGINES}": lambda _world, _tenant: _ENGINE for method in ("GET", "POST")},
    **{f"{method} {_OWN}": control_plane for method in ("GET", "POST", "PATCH", "DELETE")},
}
