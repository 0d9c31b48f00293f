"""Jobs that train all weights: refused where they do not fit, and their results are models with weights of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select, update

from llmariner.errors import InvalidRequest, ModelNotFound
from llmariner.files.tables import files
from llmariner.fine_tuning.jobs import FineTuningJobs
from llmariner.fine_tuning.representation import job_object
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.job_settings import JobSettings
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .desk import NO_TRACKING, FineTuningDesk
from .training_desk import TrainingDesk, step

BYTES = 270_000_000
"""Of the weights of the base model."""


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def names(desk: TrainingDesk) -> list[str]:
    """The names of files that jobs made."""
    made = select(files.c.filename).where(files.c.purpose.like("fine-tune-%")).order_by(files.c.id)
    with desk.database.read() as session:
        return [row.filename.partition("-")[2].partition("-")[2] for row in session.rows(made)]


def test_the_result_is_a_model_with_weights_of_its_own(desk: TrainingDesk) -> None:
    job_id = desk.training(training_type="full")
    plan = desk.tuning.workers.plan(desk.worker(job_id, 1))
    assert (plan["training_type"], plan["checkpoint_seconds"]) == ("full", 300.0)
    assert plan["learning_rate"] == pytest.approx(1e-4), "a tenth of that of an adapter"
    assert "training_type" not in desk.tuning.workers.plan(desk.worker(desk.training(), 1))
    plan = desk.tuning.workers.plan(desk.worker(desk.training(training_type="qlora"), 1))
    assert (plan["training_type"], "checkpoint_seconds" in plan) == ("qlora", False)
    assert plan["learning_rate"] == pytest.approx(1e-3), "that of an adapter"
    made = []
    for number in (3, 6):
        made.append(desk.result(job_id, 1, "model", f"weights {number}".encode()))
        desk.report(job_id, 1, step(number), {"type": "checkpoint", "step": number, "file_id": made[-1]})
    metrics = desk.result(job_id, 1, "metrics", b"step\n")
    finished = {"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics}
    for _ in range(2):
        desk.report(job_id, 1, finished)
    desk.load(desk.get(job_id).output_model)
    job = desk.reconciled(job_id)
    assert job_object(job)["training_type"] == {"type": "full"}
    model = desk.registry.get(str(job.fine_tuned_model), project_id=desk.project_id)
    assert (model.base_model_id, model.owned_by, model.approved) == (None, "user", True)
    assert (model.source_repository, model.model_file_location) == (SourceRepository.FINE_TUNING, made[-1])
    desk.registry.delete("smol", project_id=None)
    assert desk.registry.get(model.id).id == model.id, "it needs no base"


def test_the_models_of_the_last_two_epochs_are_kept_and_old_ones_take_no_room(desk: TrainingDesk) -> None:
    job_id = desk.training(training_type="full")
    with desk.database.write() as session:
        row = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id))
        assert row is not None
        numbers = {**json.loads(row.hyperparameters), "n_epochs": 4}
        same = fine_tuning_jobs.c.id == job_id
        session.run(update(fine_tuning_jobs).where(same).values(hyperparameters=json.dumps(numbers), total_steps=12))
    for number in (3, 6, 9):
        state = desk.result(job_id, 1, "state", b"state")
        model = desk.result(job_id, 1, "model", b"weights")
        checkpoint = {"type": "checkpoint", "step": number, "file_id": model}
        desk.report(job_id, 1, step(number), checkpoint, {"type": "state", "step": number, "file_id": state})
    found, _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert [each.step for each in found] == [9, 6]
    assert sorted(names(desk)) == ["model.tar", "model.tar", "state.safetensors"]
    with pytest.raises(ModelNotFound):
        desk.registry.get(f"{desk.get(job_id).output_model}:ckpt-step-3", project_id=desk.project_id)
    desk.result(job_id, 1, "model", b"of an interrupted epoch")
    desk.jobs.cancel(desk.caller, job_id)
    desk.reconciled(job_id)
    assert names(desk) == ["model.tar", "model.tar"]


def test_what_does_not_fit_is_refused_with_its_numbers(database: Database, owner: KeyOwner) -> None:
    enough = FineTuningDesk(database, owner, memory_bytes=10 * BYTES)
    TrainingDesk(database, owner, Path("/nowhere"))  # registers the base model
    enough.create(training_type="full")
    small = FineTuningDesk(database, owner, memory_bytes=10 * BYTES - 1)
    small.create()
    with pytest.raises(
        InvalidRequest, match="of all weights needs about 2574 MiB of memory, and a job may use 2574"
    ) as no:
        small.create(training_type="full")
    assert (no.value.param, no.value.code) == ("model", "model_not_trainable")
    narrow = FineTuningDesk(database, owner, disk_bytes=8 * BYTES - 1)
    with pytest.raises(InvalidRequest, match="needs about 2059 MiB of disk, and a job may use 2059 MiB"):
        narrow.create(training_type="full")
    enough.create(worker_count=2)
    with pytest.raises(InvalidRequest, match="by 2 workers needs about 5149 MiB of memory"):
        enough.create(training_type="full", worker_count=2)
    roomy = FineTuningDesk(database, owner, disk_bytes=12 * BYTES)
    roomy.create(training_type="full", worker_count=2)
    with pytest.raises(InvalidRequest, match="needs about 4634 MiB of disk"):
        roomy.create(training_type="full", worker_count=3)
    limited = FineTuningJobs(database, JobSettings(), enough.registry, enough.running_jobs, NO_TRACKING, 6 * BYTES - 1)
    with pytest.raises(
        InvalidRequest, match="the state of a training of all weights has 1544 MiB, and a file may have 1544"
    ):
        limited.create(enough.caller, enough.new(training_type="full"))
    cluster = FineTuningDesk(database, owner, adapter="kubernetes")
    enough.registry.create(NewModel("pod", SourceRepository.LOCAL, "pvc://a/b", task=Task.GENERATE))
    enough.registry.mark_loaded("pod", folder="pvc://a/b", size_bytes=BYTES, task=Task.GENERATE)
    cluster.create(model="pod")
    with pytest.raises(InvalidRequest, match="engines of a cluster fetch adapters alone"):
        cluster.create(model="pod", training_type="full")


def test_another_project_may_use_it_without_its_base(desk: TrainingDesk, owner: KeyOwner) -> None:
    with desk.database.write() as session:
        row = {"id": "proj_b", "organization_id": owner.organization_id, "title": "b", "is_default": False}
        session.add(projects, **row, created_at=1)
    name = str(desk.finish(desk.training(training_type="full")).fine_tuned_model)
    desk.tuning.permissions.create(desk.caller, name, ["proj_b"])
    theirs = desk.registry.get(name, project_id="proj_b")
    assert (theirs.base_model_id, theirs.approved) == (None, True)
