"""Fine-tuning jobs on a cluster: where their weights are, what becomes of a job whose pods were ended, and its line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import InvalidRequest, Unavailable
from llmariner.fine_tuning.job import FineTuningJob
from llmariner.job_settings import JobSettings
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database import Database
from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.jobs.kubernetes.container_scripts import TERMINATED
from llmariner.platform.jobs.kubernetes.settings import load_cluster_settings
from llmariner.tenancy.principal import KeyOwner

from .desk import FineTuningDesk
from .training_desk import TrainingDesk, step

PREEMPTED = "It was preempted, and begins again: preempted for a model."


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path)


@pytest.fixture
def cluster_desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path, adapter="kubernetes")


def end_pods(desk: TrainingDesk, job_id: str) -> FineTuningJob:
    """The job after its pods were ended and this was noticed."""
    desk.scripted.statuses[f"{job_id}-1"] = JobStatus(Phase.QUEUED, 9.0, place=2, reason=PREEMPTED)
    return desk.reconciled(job_id)


def add_model(desk: FineTuningDesk, location: str, name: str = "large") -> None:
    desk.registry.create(NewModel(name, SourceRepository.OBJECT_STORE, location, task=Task.GENERATE))
    desk.registry.mark_loaded(name, folder=location, size_bytes=0, task=Task.GENERATE)


def test_a_job_whose_pods_were_ended_waits_again_with_the_cause_and_continues(desk: TrainingDesk) -> None:
    job_id = desk.training()
    waiting = end_pods(desk, job_id)
    assert (waiting.status, waiting.place, waiting.reason) == ("queued", 2, PREEMPTED)
    assert desk.messages(job_id)[-1] == f"The job was interrupted, and continues after step 0. {PREEMPTED}"
    assert desk.outbox(job_id)[-1] == "status_changed"
    before = len(desk.outbox(job_id))
    desk.reconciled(job_id)
    assert len(desk.outbox(job_id)) == before, "it is reported once"
    desk.scripted.run(f"{job_id}-1")
    desk.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 6})
    assert desk.reconciled(job_id).status == "running"
    assert desk.finish(job_id).status == "succeeded"


def test_a_step_of_the_next_pod_says_that_it_runs(desk: TrainingDesk) -> None:
    job_id = desk.training()
    # The next pod began before it was noticed that the one before ended.
    end_pods(desk, job_id)
    desk.scripted.run(f"{job_id}-1")
    desk.report(job_id, 1, step(1))
    assert desk.get(job_id).status == "running"


def test_a_job_that_was_to_pause_when_its_pods_were_ended_is_paused(desk: TrainingDesk) -> None:
    job_id = desk.training()
    desk.jobs.pause(desk.caller, job_id)
    assert end_pods(desk, job_id).status == "paused"
    desk.reconciled(job_id)
    assert desk.scripted.calls[-1] == ("remove", f"{job_id}-1")


def test_a_job_whose_object_was_deleted_begins_another_attempt(desk: TrainingDesk) -> None:
    job_id = desk.training()
    del desk.scripted.statuses[f"{job_id}-1"]
    assert desk.reconciled(job_id).status == "queued"
    desk.reconciled(job_id)
    assert f"{job_id}-2" in desk.scripted.jobs


@pytest.mark.parametrize(("code", "status"), [("out_of_memory", "failed"), ("weights_unavailable", "queued")])
def test_a_cause_decides_whether_a_job_begins_again(desk: TrainingDesk, code: str, status: str) -> None:
    job_id = desk.training()
    desk.scripted.end(f"{job_id}-1", Phase.FAILED, code, "The cause.")
    job = desk.reconciled(job_id)
    assert (job.status, job.error_code) == (status, code if status == "failed" else None)


def test_weights_of_a_cluster_are_named_and_found_where_engines_have_them(cluster_desk: TrainingDesk) -> None:
    add_model(cluster_desk, "pvc://models/large")
    job_id = cluster_desk.start(model="large")
    sent = cluster_desk.scripted.jobs[f"{job_id}-0"]
    assert (sent.weights, sent.image, sent.readable_folders) == ("pvc://models/large", "", ())
    assert cluster_desk.tuning.workers.plan(cluster_desk.worker(job_id, 0))["model_folder"] == "/mnt/models"


def test_the_check_tells_the_size_of_weights_that_nobody_knew(cluster_desk: TrainingDesk) -> None:
    add_model(cluster_desk, "pvc://models/large")
    numbers = []
    for size in (270_000_000, 16_000_000_000):
        job_id = cluster_desk.start(model="large")
        found = {"examples": 12, "tokens": 60, "longest": 5}
        cluster_desk.report(job_id, 0, {"type": "checked", "training_file": found, "weight_bytes": size})
        numbers.append(cluster_desk.get(job_id).hyperparameters)
    assert [each.learning_rate for each in numbers if each] == [1e-3, 2e-4]


def test_weights_that_pods_can_not_read_are_refused_at_once(database: Database, owner: KeyOwner) -> None:
    desk = FineTuningDesk(database, owner, adapter="kubernetes")
    add_model(desk, "gs://models/large")
    with pytest.raises(InvalidRequest) as raised:
        desk.create(model="large")
    assert raised.value.code == "model_not_trainable"
    for number, place in enumerate(("hf://", "pvc://", "s3://")):
        assert place in raised.value.message
        add_model(desk, f"{place}models/large", f"model-{number}")
        assert desk.get(desk.create(model=f"model-{number}")).status == "validating_files"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLMARINER_TRAINING_IMAGE", "an image"),
        ("LLMARINER_TRAINING_VOLUMES", "engine"),
        ("LLMARINER_TRAINING_VOLUMES", "Engine=/opt"),
        ("LLMARINER_TRAINING_VOLUMES", "engine=opt"),
    ],
)
def test_the_image_of_a_cluster_is_a_setting(name: str, value: str) -> None:
    env: dict[str, Any] = {"LLMARINER_JOBS": "kubernetes"}
    with pytest.raises(Unavailable, match="LLMARINER_TRAINING_IMAGE") as raised:
        JobSettings.load(env).check_training()
    assert raised.value.code == "no_job_runner"
    env |= {"LLMARINER_TRAINING_IMAGE": "llmariner/engine:1", "LLMARINER_TRAINING_VOLUMES": "engine=/opt/e, a=/b/c"}
    settings = JobSettings.load(env)
    settings.check_training()
    made = load_cluster_settings(env, settings)
    assert (made.program_image, made.program_volumes) == ("llmariner/engine:1", {"engine": "/opt/e", "a": "/b/c"})
    with pytest.raises(ValueError, match=name):
        JobSettings.load({**env, name: value})


def test_a_worker_that_lost_another_begins_again_like_one_that_was_ended() -> None:
    program = importlib.import_module("llmariner.fine_tuning.training_program.__main__")
    assert program._WORKER_LOST == TERMINATED
