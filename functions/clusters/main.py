"""/v1/clusters: the clusters on which an organization's work runs, their keys, and how their GPUs are shared."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.clusters.cluster import Cluster
from llmariner.clusters.installation import ClusterInstallation
from llmariner.clusters.representation import cluster_object, config_object
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.organization_admins import is_installation_owner, require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.clusters import ConfigBody, CreateCluster, RotateRegistrationKey
from llmariner.http.schemas.lists import ClusterCursor, Limit, list_response
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization

READ, WRITE = "api.clusters.read", "api.clusters.write"
Reader = Annotated[Caller, require_scope(READ, objects="clusters")]
Writer = Annotated[Caller, require_org_admin(WRITE)]
_CLUSTER = "/v1/clusters/{id}"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("clusters", context)
    app.get("/v1/clusters")(list_clusters)
    app.post("/v1/clusters")(register)
    app.post(f"{_CLUSTER}:rotateKey")(rotate_key)
    app.post(f"{_CLUSTER}:revokeKey")(revoke_key)
    app.post(f"{_CLUSTER}:drain")(drain)
    app.post(f"{_CLUSTER}:undrain")(undrain)
    app.get(_CLUSTER)(get_cluster)
    app.delete(_CLUSTER)(unregister)
    app.post(f"{_CLUSTER}/config")(create_config)
    app.get(f"{_CLUSTER}/config")(get_config)
    app.patch(f"{_CLUSTER}/config")(change_config)
    app.delete(f"{_CLUSTER}/config")(delete_config)
    return app


def list_clusters(request: Request, caller: Reader, after: ClusterCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The organization's clusters, oldest first, and last the one of the control plane, which all organizations share."""
    clusters = _clusters(request)
    found, more = clusters.store.page(caller.organization_id, after=after, limit=limit)
    statuses = clusters.statuses.of([each.id for each in found])
    operator = _sees_installation(request, caller)
    shown = [cluster_object(each, statuses.get(each.id), is_own=_is_own(each, operator)) for each in found]
    return list_response(shown, has_more=more)


def register(request: Request, caller: Writer, body: CreateCluster) -> dict[str, Any]:
    """Register a cluster. Only this response has its registration key, with which its agent reports."""
    cluster, key = _clusters(request).store.register(caller, body.name)
    return cluster_object(cluster, None, is_own=True, key=key)


def get_cluster(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """One cluster with its inventory."""
    return _shown(request, caller, _clusters(request).store.get(caller.organization_id, id), whole=True)


def unregister(request: Request, caller: Writer, id: str, drain: bool = False) -> dict[str, Any]:
    """Unregister a cluster on which no work runs; `drain`: once no work runs there, and without new work until then."""
    operator = is_installation_owner(request, caller)
    kept = _clusters(request).store.delete(caller, id, drain=drain, operator=operator)
    return {"id": id, "object": "cluster", "deleted": kept is None}


def rotate_key(request: Request, caller: Writer, id: str, body: RotateRegistrationKey) -> dict[str, Any]:
    """Replace the registration key; only this response has the new one. The old one works for `overlap_seconds`."""
    operator = is_installation_owner(request, caller)
    cluster, key = _clusters(request).store.rotate_key(caller, id, overlap=body.overlap_seconds, operator=operator)
    return _shown(request, caller, cluster, key=key)


def revoke_key(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Make the registration keys invalid: the agent is out within seconds, until it gets a new one."""
    operator = is_installation_owner(request, caller)
    return _shown(request, caller, _clusters(request).store.revoke_key(caller, id, operator=operator))


def drain(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Place no new work on a cluster."""
    operator = is_installation_owner(request, caller)
    return _shown(request, caller, _clusters(request).store.set_drain(caller, id, drain=True, operator=operator))


def undrain(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Place work on a cluster again."""
    operator = is_installation_owner(request, caller)
    return _shown(request, caller, _clusters(request).store.set_drain(caller, id, drain=False, operator=operator))


def create_config(request: Request, caller: Writer, id: str, body: ConfigBody) -> dict[str, Any]:
    """Say how the GPUs of a cluster are shared. Its agent applies it."""
    operator = is_installation_owner(request, caller)
    return config_object(_clusters(request).configs.create(caller, id, body.changed(), operator=operator))


def get_config(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """How the GPUs of a cluster are shared, and whether its agent has applied it."""
    return config_object(_clusters(request).configs.get(caller.organization_id, id))


def change_config(request: Request, caller: Writer, id: str, body: ConfigBody) -> dict[str, Any]:
    """Change how the GPUs of a cluster are shared: an absent field stays, null takes it away."""
    operator = is_installation_owner(request, caller)
    return config_object(_clusters(request).configs.change(caller, id, body.changed, operator=operator))


def delete_config(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Share no GPUs any more: the agent removes what it has applied."""
    _clusters(request).configs.delete(caller, id, operator=is_installation_owner(request, caller))
    return {}


def _clusters(request: Request) -> ClusterInstallation:
    return context_of(request).clusters


def _shown(
    request: Request, caller: Caller, cluster: Cluster, *, whole: bool = False, key: str | None = None
) -> dict[str, Any]:
    status = _clusters(request).statuses.of([cluster.id], whole=whole).get(cluster.id)
    is_own = _is_own(cluster, _sees_installation(request, caller))
    return cluster_object(cluster, status, is_own=is_own, whole=whole, key=key)


def _is_own(cluster: Cluster, sees_installation: bool) -> bool:
    return cluster.organization_id is not None or sees_installation


def _sees_installation(request: Request, caller: Caller) -> bool:
    """Whether the caller's organization runs the installation, and so its cluster."""
    with context_of(request).database.read() as session:
        return is_default_organization(session, caller.organization_id)


handle = http_function(build)
