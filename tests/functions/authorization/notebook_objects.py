"""For every route of notebooks, a call of it, as in `objects`."""

from __future__ import annotations

from llmariner.notebooks.tables import notebooks

from .objects import list_of_100
from .route_calls import RouteCall
from .world import Tenant, World

__all__ = ["NOTEBOOK_OBJECTS", "notebook"]


def notebook(world: World, tenant: Tenant) -> str:
    """The id of a new notebook that the members of the tenant's project may use, and that has stopped."""
    id_ = f"nb-{tenant.tag}-{world.number()}"
    world.add(
        notebooks,
        id=id_,
        organization_id=tenant.organization_id,
        project_id=tenant.project_id,
        user_id=tenant.user_id,
        name=id_,
        active_name=id_,
        image_type="jupyter-lab-base",
        millicores=1000,
        memory_megabytes=2048,
        storage_megabytes=4096,
        envs="{}",
        ports="[]",
        shared=True,
        key_scopes="api.model.read",
        status="stopped",
        run=1,
        created_at=1,
    )
    return id_


def a_new_notebook(world: World, _tenant: Tenant) -> RouteCall:
    """A name that is free."""
    return RouteCall(body={"name": f"walked-{world.number()}"})


def a_notebook(world: World, tenant: Tenant) -> RouteCall:
    """A notebook of the tenant."""
    return RouteCall({"id": notebook(world, tenant)})


def a_page_by_alias(world: World, tenant: Tenant) -> RouteCall:
    """The same, by LLMariner's path."""
    return RouteCall({"cluster_id": "cluster-local", "id": notebook(world, tenant), "path:path": "default/lab"})


def a_change(world: World, tenant: Tenant) -> RouteCall:
    """A change of nothing."""
    return RouteCall({"id": notebook(world, tenant)}, body={})


def a_page(world: World, tenant: Tenant) -> RouteCall:
    """A page of a notebook of the tenant."""
    return RouteCall({"id": notebook(world, tenant), "path:path": "lab"})


_NOTEBOOK = "/v1/workspaces/notebooks/{id}"
_SERVICE = "/v1/services/notebooks/{id}/{path:path}"
_ALIAS = "/v1/sessions/{cluster_id}/v1/services/notebooks/{id}/{path:path}"
NOTEBOOK_OBJECTS = {
    "GET /v1/workspaces/notebooks": list_of_100,
    "POST /v1/workspaces/notebooks": a_new_notebook,
    f"GET {_NOTEBOOK}": a_notebook,
    f"PATCH {_NOTEBOOK}": a_change,
    f"DELETE {_NOTEBOOK}": a_notebook,
    f"POST {_NOTEBOOK}/actions:start": a_notebook,
    f"POST {_NOTEBOOK}/actions:stop": a_notebook,
    f"POST {_NOTEBOOK}/actions:open": a_notebook,
    **{f"{method} {_SERVICE}": a_page for method in ("GET", "POST", "PUT", "PATCH", "DELETE")},
    **{f"{method} {_ALIAS}": a_page_by_alias for method in ("GET", "POST", "PUT", "PATCH", "DELETE")},
}
