"""Which object each route of the projects' credentials for models accesses."""

from __future__ import annotations

from llmariner.models.tables import model_credentials

from .objects import list_of_100
from .route_calls import RouteCall
from .world import Tenant, World

__all__ = ["MODEL_CREDENTIAL_OBJECTS", "model_credential"]


def a_new_credential(world: World, _tenant: Tenant) -> RouteCall:
    """A credential of a new name."""
    name = f"walk-{world.number()}"
    return RouteCall(body={"name": name, "source_repository": "HUGGING_FACE", "secret": "s"})


def model_credential(world: World, tenant: Tenant) -> str:
    """The id of a new credential of the tenant's project."""
    id_ = f"mcred_{tenant.tag}-{world.number()}"
    place = {"organization_id": tenant.organization_id, "project_id": tenant.project_id}
    row = {"id": id_, "name": id_, "source": "HUGGING_FACE", "sealed": "", "key_id": "", "username": None}
    world.add(model_credentials, **row, **place, created_at=1, updated_at=1)
    return id_


def a_credential(world: World, tenant: Tenant) -> RouteCall:
    """A credential of the tenant's project."""
    return RouteCall({"id": model_credential(world, tenant)})


MODEL_CREDENTIAL_OBJECTS = {
    "GET /v1/model_credentials": list_of_100,
    "POST /v1/model_credentials": a_new_credential,
    "DELETE /v1/model_credentials/{id}": a_credential,
}
