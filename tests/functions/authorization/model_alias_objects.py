"""Calls of the routes of aliases of models."""

from __future__ import annotations

import time
from typing import Any

from llmariner.models.tables import model_alias_revisions, model_aliases

from .objects import list_of_100, model
from .route_calls import CallFactory, RouteCall
from .world import Tenant, World

__all__ = ["MODEL_ALIAS_OBJECTS", "an_alias"]


def an_alias(body: Any = None) -> CallFactory:
    """An alias of the tenant's project, and another model for it to point at."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        name, now = f"walk-{tenant.tag}-{world.number()}", time.time()
        place = {"project_id": tenant.project_id, "organization_id": tenant.organization_id, "name": name}
        first, last = model(world, tenant), model(world, tenant)
        row = {"model": last, "number": 2, "created_at": 1, "updated_at": now, "revision": 1}
        world.add(model_aliases, **place, **row)
        by = {"at": now, "cause": "moved", "reason": "", "user_id": tenant.user_id, "model": last}
        world.add(model_alias_revisions, **place, **by, number=2, previous_model=first)
        moved = {"model": model(world, tenant)} if body is None else body
        return RouteCall({"alias": name}, moved)

    return call


def a_new_alias(world: World, tenant: Tenant) -> RouteCall:
    """An alias for a model of the tenant's project."""
    return RouteCall(body={"alias": f"walk-{tenant.tag}-{world.number()}", "model": model(world, tenant)})


MODEL_ALIAS_OBJECTS = {
    "GET /v1/model_aliases": list_of_100,
    "POST /v1/model_aliases": a_new_alias,
    "GET /v1/model_aliases/{alias}": an_alias(),
    "PATCH /v1/model_aliases/{alias}": an_alias(),
    "DELETE /v1/model_aliases/{alias}": an_alias(),
    "POST /v1/model_aliases/{alias}/rollback": an_alias({}),
    "GET /v1/model_aliases/{alias}/revisions": an_alias(),
}
