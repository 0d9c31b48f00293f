"""Calls of the routes of quotas."""

from __future__ import annotations

from typing import Any

from llmariner.quotas.tables import quotas

from .route_calls import CallFactory, RouteCall, no_object
from .world import Tenant, World

__all__ = ["QUOTA_OBJECTS"]


def a_quota(body: Any = None) -> CallFactory:
    """The quota of the tenant's project."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        place = {"organization_id": tenant.organization_id, "project_id": tenant.project_id}
        row = {"subject_id": tenant.project_id, **place, "created_at": 1, "updated_at": 1}
        with world.database.write() as session:
            session.insert_if_absent(quotas, [row])
        return RouteCall({"id": tenant.project_id}, body)

    return call


QUOTA_OBJECTS: dict[str, CallFactory] = {
    "GET /v1/organization/quotas": no_object,
    "GET /v1/organization/quotas/{id}": a_quota(),
    "POST /v1/organization/quotas/{id}": a_quota({"memory": {"nominal": 0, "borrowing_limit": 5}}),
    "DELETE /v1/organization/quotas/{id}": a_quota(),
}
