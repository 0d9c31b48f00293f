"""How many trained models a project keeps, with those that its jobs may still make."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import Conflict
from llmariner.fine_tuning.job import NewFineTuningJob, Status
from llmariner.fine_tuning.jobs import end_job, load_job
from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .desk import FineTuningDesk
from .training_desk import TrainingDesk, step


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    """That of a project which may keep 2."""
    return limited(TrainingDesk(database, owner, tmp_path), owner)


def limited(desk: TrainingDesk, owner: KeyOwner, number: int = 2) -> TrainingDesk:
    desk.jobs = FineTuningDesk(desk.database, owner, project_trained_models=number).jobs
    return desk


def half_trained(desk: TrainingDesk) -> str:
    """A job that runs, and has made its first checkpoint."""
    job_id = desk.training()
    first = desk.result(job_id, 1, "adapter", job_id.encode())
    desk.report(job_id, 1, step(3), {"type": "checkpoint", "step": 3, "file_id": first})
    return job_id


def finished(desk: TrainingDesk) -> tuple[str, str]:
    """The result and the first checkpoint of a job that has succeeded."""
    job = desk.finish(half_trained(desk))
    assert job.status is Status.SUCCEEDED
    return job.output_model, f"{job.output_model}:ckpt-step-3"


def permit_another_project(desk: TrainingDesk, model: str) -> FineTuningDesk:
    """That of a project of the organization which may use the model, and keep 1."""
    other = replace(desk.owner, project_id="proj_b")
    with desk.database.write() as session:
        row = {"id": other.project_id, "organization_id": other.organization_id, "title": "b", "is_default": False}
        session.add(projects, **row, created_at=1)
    desk.tuning.permissions.create(desk.caller, model, [other.project_id])
    assert desk.registry.get(model, project_id=other.project_id).project_id == other.project_id
    return FineTuningDesk(desk.database, other, project_trained_models=1)


def assert_full(desk: TrainingDesk, kept: int, under_way: int) -> None:
    with pytest.raises(Conflict) as raised:
        desk.create()
    assert raised.value.code == "too_many_trained_models"
    assert f"{kept} trained models, and {under_way} fine-tuning jobs" in raised.value.message
    for way_out in ("DELETE /v1/models/{name}", "llma models delete", "cancel a job"):
        assert way_out in raised.value.message


def test_what_exists_and_what_is_under_way_count_together(desk: TrainingDesk) -> None:
    result, checkpoint = finished(desk)
    job_id = desk.training()
    assert_full(desk, 1, 1)
    desk.jobs.pause(desk.caller, job_id)
    assert_full(desk, 1, 1)
    permit_another_project(desk, result).create()
    desk.jobs.cancel(desk.caller, job_id)
    failed = desk.create()
    assert_full(desk, 1, 1)
    with desk.database.write() as session:
        end_job(session, load_job(session, desk.project_id, failed, lock=True), Status.FAILED)
    finished(desk)
    assert_full(desk, 2, 0)
    desk.registry.delete(result, project_id=desk.project_id)
    assert_full(desk, 2, 0)
    desk.registry.delete(checkpoint, project_id=desk.project_id)
    desk.create()
    assert_full(desk, 1, 1)
    job_id = half_trained(limited(desk, desk.owner, 3))
    assert_full(desk, 1, 2)
    desk.jobs.cancel(desk.caller, job_id)
    assert_full(desk, 2, 1)  # its checkpoint remains
    limited(desk, desk.owner, 0).create()


def test_of_jobs_that_are_created_at_once_as_many_as_there_is_room_for(desk: TrainingDesk) -> None:
    def create(new: NewFineTuningJob) -> bool:
        try:
            desk.jobs.create(desk.caller, new)
        except Conflict:
            return False
        return True

    finished(desk)
    jobs = [desk.new() for _ in range(4)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert sorted(pool.map(create, jobs)) == [False, False, False, True]
