"""For every route of fine-tuning, a call of it, as in `objects`."""

from __future__ import annotations

import json

from llmariner.files.tables import files
from llmariner.fine_tuning.tables import (
    fine_tuning_checkpoints,
    fine_tuning_credentials,
    fine_tuning_jobs,
    fine_tuning_permissions,
)
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..training_jobs import GRADER, training_job
from .files import a_file
from .objects import list_of_100, model
from .route_calls import RouteCall
from .world import Tenant, World

__all__ = ["FINE_TUNING_OBJECTS", "fine_tuning_credential", "fine_tuning_job"]


def fine_tuning_job(world: World, tenant: Tenant) -> str:
    """The id of a new job of the tenant's project, which runs."""
    id_ = f"ftjob-{tenant.tag}-{world.number()}"
    owner = KeyOwner(tenant.user_id, tenant.project_id, tenant.organization_id)
    world.add(fine_tuning_jobs, **training_job(id_, owner))
    return id_


def a_job(world: World, tenant: Tenant) -> RouteCall:
    """A job of the tenant."""
    return RouteCall({"id": fine_tuning_job(world, tenant)})


def a_new_job(world: World, tenant: Tenant) -> RouteCall:
    """A body with a model and a file of the tenant."""
    file_id = f"file-{tenant.tag}-{world.number()}"
    world.add(
        files,
        id=file_id,
        organization_id=tenant.organization_id,
        project_id=tenant.project_id,
        filename="train.jsonl",
        purpose="fine-tune",
        size_bytes=1,
        content_type="application/jsonl",
        created_at=1,
    )
    return RouteCall(body={"model": model(world, tenant), "training_file": file_id})


def a_report(world: World, tenant: Tenant) -> RouteCall:
    """A report of the process of a job."""
    return RouteCall({"id": fine_tuning_job(world, tenant)}, {"records": []})


def a_result(world: World, tenant: Tenant) -> RouteCall:
    """A result of the process of a job."""
    return RouteCall({"id": fine_tuning_job(world, tenant)}, {"kind": "state", "bytes": 1, "sha256": "0" * 64})


def a_part(world: World, tenant: Tenant) -> RouteCall:
    """A part of a result of the process of a job: no key opens its upload."""
    return RouteCall({"id": fine_tuning_job(world, tenant), "upload_id": "upload_none", "sha256": "0" * 64})


def a_complete_result(world: World, tenant: Tenant) -> RouteCall:
    """The end of an upload, as `a_part`."""
    named = {"id": fine_tuning_job(world, tenant), "upload_id": "upload_none"}
    return RouteCall(named, {"part_ids": ["part_none"], "sha256": "0" * 64})


def an_answer(world: World, tenant: Tenant) -> RouteCall:
    """An answer of the process of a job, to be graded."""
    id_ = f"ftjob-{tenant.tag}-{world.number()}"
    owner = KeyOwner(tenant.user_id, tenant.project_id, tenant.organization_id)
    world.add(fine_tuning_jobs, **training_job(id_, owner), grader=json.dumps(GRADER), grades_left=1)
    return RouteCall({"id": id_}, {"item": {}, "output_text": "Arrr!"})


def a_weights_file(world: World, tenant: Tenant) -> RouteCall:
    """A file of the base model of the tenant's job."""
    return RouteCall({"id": fine_tuning_job(world, tenant), "name": "config.json"})


def a_grader(world: World, tenant: Tenant) -> RouteCall:
    """A grader to check."""
    return RouteCall(body={"grader": GRADER})


def an_answer_to_try(world: World, tenant: Tenant) -> RouteCall:
    """An answer for a grader."""
    return RouteCall(body={"grader": GRADER, "model_sample": "Arrr!"})


def checkpoint(world: World, tenant: Tenant) -> str:
    """The name of a new checkpoint of the tenant's project, which is a model."""
    job_id, name = fine_tuning_job(world, tenant), f"ft:walk:{tenant.tag}-{world.number()}"
    # Every project sees the model, so its name names nobody.
    base = f"walk/shared-{world.number()}"
    world.context.registry.create(NewModel(base, SourceRepository.LOCAL, f"/weights/{base}"))
    world.context.registry.mark_loaded(base, folder=f"/weights/{base}", size_bytes=1, task=Task.GENERATE)
    file_id = str(a_file(world, tenant).path["id"])
    new = NewModel(name, SourceRepository.FINE_TUNING, file_id, base, tenant.project_id)
    world.context.registry.create(new)
    place = {"organization_id": tenant.organization_id, "project_id": tenant.project_id}
    row = {"id": f"ftckpt_{world.number()}", "job_id": job_id, "created_at": 1, "step": 1, "file_id": file_id}
    world.add(fine_tuning_checkpoints, **row, **place, model=name, metrics="{}")
    return name


def a_checkpoint(world: World, tenant: Tenant) -> RouteCall:
    """A checkpoint of the tenant."""
    return RouteCall({"id:path": checkpoint(world, tenant)})


def a_new_permission(world: World, tenant: Tenant) -> RouteCall:
    """A checkpoint of the tenant, and another project of its organization."""
    project_id = f"proj_{tenant.tag.replace('-', '_')}_{world.number()}"
    row = {"id": project_id, "organization_id": tenant.organization_id, "title": project_id, "is_default": False}
    world.add(projects, **row, created_at=1)
    return RouteCall({"id:path": checkpoint(world, tenant)}, {"project_ids": [project_id]})


def a_permission(world: World, tenant: Tenant) -> RouteCall:
    """A permission to use a checkpoint of the tenant."""
    name, id_ = checkpoint(world, tenant), f"cp_{world.number()}"
    row = {"id": id_, "organization_id": tenant.organization_id, "project_id": f"proj_{world.number()}"}
    world.add(fine_tuning_permissions, **row, model=name, location="x", created_at=1)
    return RouteCall({"id:path": name, "permission_id": id_})


def a_new_credential(world: World, tenant: Tenant) -> RouteCall:
    """A credential for the server of the installation."""
    return RouteCall(body={"type": "mlflow", "secret": "s"})


def fine_tuning_credential(world: World, tenant: Tenant) -> str:
    """The id of a new credential of the tenant's project."""
    id_ = f"ftcred_{tenant.tag}-{world.number()}"
    place = {"organization_id": tenant.organization_id, "project_id": tenant.project_id}
    row = {"id": id_, "type": "mlflow", "server": f"http://{id_}", "sealed": "", "key_id": "", "username": None}
    world.add(fine_tuning_credentials, **row, **place, created_at=1, updated_at=1)
    return id_


def a_credential(world: World, tenant: Tenant) -> RouteCall:
    """A credential of the tenant's project."""
    return RouteCall({"id": fine_tuning_credential(world, tenant)})


def a_file_of_the_plan(world: World, tenant: Tenant) -> RouteCall:
    """The training file of a job of the tenant."""
    return RouteCall({**a_job(world, tenant).path, "name": "training_file"})


def an_adapter(_world: World, _tenant: Tenant) -> RouteCall:
    """A file of the adapter that the token names: no key does."""
    return RouteCall({"name": "adapter_config.json"})


_GRADERS = "/v1/fine_tuning/alpha/graders"
_PERMISSIONS = "/v1/fine_tuning/checkpoints/{id:path}/permissions"
_JOB = "/v1/fine_tuning/jobs/{id}"
_WORKER = "/v1/fine_tuning/workers/{id}"
_CREDENTIALS = "/v1/fine_tuning/credentials"
FINE_TUNING_OBJECTS = {
    "GET /v1/fine_tuning/jobs": list_of_100,
    "POST /v1/fine_tuning/jobs": a_new_job,
    f"GET {_JOB}": a_job,
    f"POST {_JOB}/cancel": a_job,
    f"POST {_JOB}/pause": a_job,
    f"POST {_JOB}/resume": a_job,
    f"GET {_JOB}/events": a_job,
    f"GET {_JOB}/checkpoints": a_job,
    f"GET {_PERMISSIONS}": a_checkpoint,
    f"POST {_PERMISSIONS}": a_new_permission,
    f"DELETE {_PERMISSIONS}/{{permission_id}}": a_permission,
    f"GET {_CREDENTIALS}": list_of_100,
    f"POST {_CREDENTIALS}": a_new_credential,
    f"DELETE {_CREDENTIALS}/{{id}}": a_credential,
    "GET /v1/fine_tuning/adapters/{name}": an_adapter,
    f"GET {_WORKER}/plan": a_job,
    f"GET {_WORKER}/links/{{name}}": a_file_of_the_plan,
    f"POST {_WORKER}/reports": a_report,
    f"POST {_WORKER}/uploads": a_result,
    f"PUT {_WORKER}/uploads/{{upload_id}}/parts/{{sha256}}": a_part,
    f"POST {_WORKER}/uploads/{{upload_id}}/complete": a_complete_result,
    f"POST {_WORKER}/grades": an_answer,
    f"GET {_WORKER}/weights": a_job,
    f"GET {_WORKER}/weights/{{name}}": a_weights_file,
    f"POST {_GRADERS}/run": an_answer_to_try,
    f"POST {_GRADERS}/validate": a_grader,
}
