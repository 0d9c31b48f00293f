"""For every route of batch jobs, a call of it, as in `objects`."""

from __future__ import annotations

from llmariner.batch_jobs.tables import batch_jobs

from .objects import list_of_100
from .route_calls import RouteCall
from .world import Tenant, World

__all__ = ["BATCH_JOB_OBJECTS", "NEW_JOB", "batch_job"]

NEW_JOB = {"image": "pytorch-2.1", "command": "sh scripts/run.sh", "scripts": {"run.sh": "ZWNobyBoaQ=="}}


def batch_job(world: World, tenant: Tenant, status: str = "queued") -> str:
    """The id of a new job of the tenant's project."""
    id_ = f"bj-{tenant.tag}-{world.number()}"
    lists = dict.fromkeys(("script_names", "data_files"), "[]")
    world.add(
        batch_jobs,
        id=id_,
        organization_id=tenant.organization_id,
        project_id=tenant.project_id,
        user_id=tenant.user_id,
        image="pytorch-2.1",
        command="true",
        envs="{}",
        scripts="{}",
        **lists,
        environment="Nowhere.",
        status=status,
        created_at=1,
    )
    return id_


def a_job(world: World, tenant: Tenant) -> RouteCall:
    """A job of the tenant."""
    return RouteCall({"id": batch_job(world, tenant)})


def a_program(world: World, tenant: Tenant) -> RouteCall:
    """A program in a running job of the tenant."""
    return RouteCall({"id": batch_job(world, tenant, status="running")}, {"command": ["ls"]})


def what_is_left(world: World, tenant: Tenant) -> RouteCall:
    """Files that a job of the tenant leaves: its pod's token names them, and no key does."""
    return RouteCall({"id": batch_job(world, tenant, status="running")}, {"files": []})


_JOB = "/v1/batch/jobs/{id}"
BATCH_JOB_OBJECTS = {
    "GET /v1/batch/jobs": list_of_100,
    "POST /v1/batch/jobs": lambda _world, _tenant: RouteCall(body=NEW_JOB),
    f"GET {_JOB}": a_job,
    f"DELETE {_JOB}": a_job,
    f"POST {_JOB}/cancel": a_job,
    f"POST {_JOB}/pause": a_job,
    f"POST {_JOB}/resume": a_job,
    f"POST {_JOB}/exec": a_program,
    f"POST {_JOB}/results": what_is_left,
    f"GET {_JOB}/logs": a_job,
}
