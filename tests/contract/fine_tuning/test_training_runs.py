"""What becomes of a job: checked, trained, ended; and what its process may say and do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import delete, select, update

from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, ModelNotFound, PermissionDenied
from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files
from llmariner.files.upload_links import UploadLinks
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.port_ids import job_id_of
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.model import ActivationStatus, SourceRepository
from llmariner.platform.database import Database
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import organization_users

from .training_desk import ROWS, SECRET, TrainingDesk, jsonl, step

CHECKED = {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}}


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def test_a_job_goes_from_its_file_to_a_model(desk: TrainingDesk) -> None:
    job_id = desk.start(suffix="pirate")
    sent = desk.scripted.jobs[f"{job_id}-0"]
    assert job_id_of(sent.id) == job_id
    assert (sent.project_id, sent.readable_folders) == (desk.project_id, ("/models/smol",))
    assert sent.environment["LLMARINER_TRAINING_URL"] == f"http://platform/v1/fine_tuning/workers/{job_id}"
    plan = desk.tuning.workers.plan(desk.worker(job_id, 0))
    assert (plan["stage"], plan["model_folder"], plan["validation_file"]) == ("check", "/models/smol", None)
    assert plan["training_file"].startswith("http://platform/v1/files/file-")
    for _ in range(2):
        assert desk.reconciled(job_id).status is Status.VALIDATING_FILES
    desk.report(job_id, 0, CHECKED)
    job = desk.get(job_id)
    assert (job.status, job.estimated_tokens, job.total_steps) == (Status.QUEUED, 60 * 8, 3 * 8)
    assert job.hyperparameters is not None
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (8, 4)
    assert desk.reconciled(job_id).place == 3
    assert ("remove", f"{job_id}-0") in desk.scripted.calls
    plan = desk.tuning.workers.plan(desk.worker(job_id, 1))
    assert (plan["stage"], plan["n_epochs"], plan["checkpoint"]) == ("train", 8, None)
    desk.scripted.run(f"{job_id}-1")
    assert (desk.get(job_id).place, desk.get(job_id).reason[:19]) == (None, "It has its turn, an")
    desk.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 24}, step(1, valid_loss=3.0))
    assert (desk.get(job_id).status, desk.get(job_id).step) == (Status.RUNNING, 1)
    adapter = desk.result(job_id, 1, "adapter", b"adapter")
    desk.report(job_id, 1, step(24), {"type": "checkpoint", "step": 24, "file_id": adapter, "full_valid_loss": 2.5})
    metrics = desk.result(job_id, 1, "metrics", b"step\n")
    desk.report(job_id, 1, {"type": "finished", "step": 24, "trained_tokens": 480, "file_id": metrics})
    desk.scripted.end(f"{job_id}-1", Phase.SUCCEEDED)
    job = desk.reconciled(job_id)
    assert (job.status, job.fine_tuned_model) == (Status.RUNNING, None), "the model is not loaded yet"
    model = desk.registry.get(job.output_model, project_id=desk.project_id)
    assert (model.base_model_id, model.project_id, model.approved) == ("smol", desk.project_id, True)
    assert (model.source_repository, model.model_file_location) == (SourceRepository.FINE_TUNING, adapter)
    desk.load(model.id)
    job = desk.reconciled(job_id)
    assert (job.status, job.fine_tuned_model) == (Status.SUCCEEDED, model.name)
    assert (job.trained_tokens, job.result_file) == (480, metrics)
    [checkpoint], _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert (checkpoint.step, checkpoint.model, checkpoint.metrics) == (24, model.name, {"full_valid_loss": 2.5})
    for _ in range(2):
        desk.reconciled(job_id)
    assert desk.messages(job_id)[-1] == "The job has successfully completed"
    statuses = desk.outbox(job_id).count("status_changed")
    assert statuses == 3, "queued, running, succeeded"


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "a role": (jsonl([*ROWS[:2], {"messages": [{"role": "bot", "content": "x"}]}]), "Line 3: 'messages[0].role'"),
    "a preference": (jsonl([*ROWS, {"input": {}, "preferred_output": []}]), "Line 13: it is a preference"),
    "blank lines count": (b"\n\n" + jsonl([{"messages": []}]) + b"\n", "Line 3: 'messages' must be a list"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_fault_of_a_file_is_named_by_its_line(desk: TrainingDesk, name: str) -> None:
    content, said = BAD_FILES[name]
    results = NewFile("train.jsonl", Purpose.FINE_TUNE, "application/jsonl")
    good, bad = desk.upload(jsonl(ROWS)), unchecked(desk, content, results)
    first = desk.reconciled(desk.create(training_file=bad))
    second = desk.reconciled(desk.create(training_file=good, validation_file=bad))
    for job, param in ((first, "training_file"), (second, "validation_file")):
        assert job.status is Status.FAILED
        assert (job.error_code, job.error_param) == (f"invalid_{param}", param)
        assert job.error_message is not None
        assert job.error_message.startswith(said)
    assert desk.scripted.jobs == {}, "no process was started for them"


def unchecked(desk: TrainingDesk, content: bytes, new: NewFile) -> str:
    """The id of a file whose content was not checked when it was made, such as one outside the store."""
    file_id = desk.upload(content, NewFile("x", Purpose.USER_DATA, "text/plain"))
    with desk.database.write() as session:
        session.run(update(files).where(files.c.id == file_id).values(purpose=new.purpose))
    return file_id


@pytest.mark.parametrize("limit", ["_PART_BYTES", "_PIECE_BYTES"])
def test_a_large_file_is_checked_in_parts(desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(f"llmariner.fine_tuning.form_check.{limit}", 200)
    monkeypatch.setattr("llmariner.fine_tuning.reconciler._CHECK_SECONDS", 1e-9)
    bad = jsonl([*ROWS, {"messages": [{"role": "bot"}]}, ROWS[0]])
    job_id = desk.create(training_file=unchecked(desk, bad, NewFile("x", Purpose.FINE_TUNE, "text/plain")))
    assert desk.reconciled(job_id).status is Status.VALIDATING_FILES
    c = fine_tuning_jobs.c
    with desk.database.read() as session:
        row = session.first(select(c.checked_bytes, c.checked_lines).where(c.id == job_id))
    assert row is not None
    assert 0 < row.checked_bytes < len(bad) / 2
    assert 0 < row.checked_lines < 6
    monkeypatch.setattr("llmariner.fine_tuning.reconciler._CHECK_SECONDS", 60.0)
    job = desk.reconciled(job_id)
    assert job.error_message is not None
    assert job.error_message.startswith("Line 13: 'messages[0].role'")


def test_what_the_tokenizer_finds_wrong_ends_the_job(desk: TrainingDesk) -> None:
    job_id = desk.start()
    desk.report(job_id, 0, {"type": "invalid", "file": "training_file", "line": 7, "message": "it has 9000 tokens"})
    job = desk.get(job_id)
    assert (job.status, job.error_message) == (Status.FAILED, "Line 7: it has 9000 tokens.")
    few = desk.start()
    desk.report(few, 0, {**CHECKED, "training_file": {"examples": 9, "tokens": 60}})
    assert desk.get(few).error_message == "The file has 9 examples: it needs 10 at least."
    with pytest.raises(Conflict) as raised:
        desk.report(few, 0, CHECKED)
    assert raised.value.code == "attempt_ended"


def test_a_report_that_comes_twice_changes_nothing(desk: TrainingDesk) -> None:
    job_id = desk.training()
    file_id = desk.result(job_id, 1, "adapter", b"adapter")
    for _ in range(2):
        desk.report(
            job_id,
            1,
            {"type": "training", "step": 0},
            step(1),
            step(3),
            {"type": "checkpoint", "step": 3, "file_id": file_id},
        )
    events, _ = desk.history.events(desk.project_id, job_id, after=None, limit=100)
    assert sorted(event.step for event in events if event.step is not None) == [1, 3]
    assert len(desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)[0]) == 1
    assert [each for each in desk.messages(job_id) if each.startswith("Checkpoint")] == [
        f"Checkpoint created at step 3: {desk.get(job_id).output_model}:ckpt-step-3"
    ]


def test_the_last_three_checkpoints_are_kept(desk: TrainingDesk) -> None:
    job_id = desk.training(hyperparameters=epochs(6))
    name = desk.get(job_id).output_model
    files_ = []
    for number in range(1, 7):
        files_.append(desk.result(job_id, 1, "adapter", b"adapter %d" % number))
        desk.report(job_id, 1, {"type": "checkpoint", "step": 3 * number, "file_id": files_[-1]})
        if number == 1:
            desk.load(f"{name}:ckpt-step-3")
            desk.registry.activate(f"{name}:ckpt-step-3", ActivationStatus.ACTIVE, project_id=desk.project_id)
    kept, _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert [each.step for each in kept] == [18, 15, 12, 3], "one that is active stays"
    assert [each.model for each in kept[:2]] == [name, f"{name}:ckpt-step-15"]
    assert sorted(desk.files.get_many(desk.project_id, files_)) == sorted([files_[0], *files_[3:]])
    with pytest.raises(ModelNotFound):
        desk.registry.get(f"{name}:ckpt-step-6", project_id=desk.project_id)


def test_the_result_of_a_job_that_stops_early_is_its_best_checkpoint(desk: TrainingDesk) -> None:
    numbers = RequestedHyperparameters(n_epochs=9, early_stopping_patience=4)
    validation = desk.upload(jsonl(ROWS[:3]))
    job_id = desk.training(hyperparameters=numbers, validation_file=validation)
    assert desk.tuning.workers.plan(desk.worker(job_id, 1))["early_stopping_patience"] == 4
    name = desk.get(job_id).output_model
    adapters = {}
    for number, loss in enumerate((2.0, 1.5, 1.5, 1.7, 1.8, 1.9), 1):
        adapters[3 * number] = desk.result(job_id, 1, "adapter", b"adapter %d" % number)
        record = {"type": "checkpoint", "step": 3 * number, "file_id": adapters[3 * number], "full_valid_loss": loss}
        desk.report(job_id, 1, step(3 * number), record)
    kept, _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert [each.model for each in kept] == [f"{name}:ckpt-step-{number}" for number in (18, 15, 12, 6)]
    finished = {"type": "finished", "step": 18, "trained_tokens": 60}
    finished["file_id"] = desk.result(job_id, 1, "metrics", b"step\n")
    for wrong in (3, 7, -1, "6", None):
        with pytest.raises(InvalidRequest):
            desk.report(job_id, 1, {**finished, "best_step": wrong})
    for _ in range(2):
        desk.report(job_id, 1, {**finished, "best_step": 6})
    assert desk.registry.get(name, project_id=desk.project_id).model_file_location == adapters[6]
    desk.load(name)
    assert desk.reconciled(job_id).fine_tuned_model == name
    assert desk.get(job_id).step == 18
    said = "Training stopped early after step 18. The checkpoint with the lowest validation loss is the result: step 6"
    assert desk.messages(job_id).count(said) == 1


def test_a_job_trains_with_its_workers_and_checks_with_one(desk: TrainingDesk) -> None:
    job_id, alone = desk.training(worker_count=2), desk.training()
    assert desk.get(job_id).worker_count == 2
    found = [desk.scripted.jobs[name] for name in (f"{job_id}-0", f"{job_id}-1", f"{alone}-1")]
    sent = [each.environment.get("LLMARINER_TRAINING_WORKERS") for each in found]
    assert ([each.worker_count for each in found], sent) == ([1, 2, 1], [None, "2", None])
    with desk.database.write() as session:  # as a process of the release before leaves it
        session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == alone).values(worker_count=None))
    assert desk.get(alone).worker_count == 1


def test_a_job_has_links_where_an_operator_lets_them_be_valid_for_minutes(desk: TrainingDesk) -> None:
    settings = desk.files.settings = FileSettings(link_seconds=300)
    desk.upload_links = UploadLinks(desk.database, settings, [SECRET])
    worker = desk.worker(desk.training(), 1)
    for path in (desk.tuning.workers.plan(worker)["training_file"], desk.tuning.workers.link(worker, "training_file")):
        assert desk.links.open(parse_qs(urlsplit(path).query)["link"][0], desk.get(worker.job_id).training_file)
    assert "link=" in desk.tuning.workers.upload_link(worker, "state", 1, "0" * 64)


def test_a_token_is_good_for_its_job_alone(desk: TrainingDesk) -> None:
    first, second = desk.start(), desk.start()
    token = desk.token(first, 0)
    file_link = desk.links.create(desk.caller, desk.file(), 60).token
    for wrong, job_id in ((token, second), (token[:-2], first), ("", first), (file_link, first)):
        with pytest.raises(AuthenticationFailed):
            desk.tuning.worker_tokens.open(wrong, job_id)
    assert desk.tuning.worker_tokens.open(token, first).maker.scopes == {"api.fine_tuning.jobs.write"}


def test_a_job_ends_with_the_right_of_its_maker(desk: TrainingDesk) -> None:
    job_id = desk.start()
    with desk.database.write() as session:
        session.run(delete(organization_users).where(organization_users.c.user_id == desk.owner.user_id))
    with pytest.raises(PermissionDenied):
        desk.worker(job_id, 0)


def test_a_process_can_name_its_own_results_only(desk: TrainingDesk) -> None:
    job_id, other = desk.training(), desk.training()
    foreign = desk.result(other, 1, "adapter", b"another's")
    for file_id in (foreign, desk.upload(jsonl(ROWS)), "file-none", 7, None):
        for type_ in ("checkpoint", "state", "finished"):
            with pytest.raises(InvalidRequest):
                desk.report(job_id, 1, {"type": type_, "step": 1, "trained_tokens": 1, "file_id": file_id})
    with pytest.raises(InvalidRequest):
        desk.tuning.workers.upload_link(desk.worker(job_id, 1), "model.bin", 1, "0" * 64)
    assert desk.files.get(desk.project_id, foreign).id == foreign


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": "checked"},
        {"type": ["step"]},
        step(1, step="1"),
        step(1, step=-1),
        step(1, step=2**60),
        step(1, train_loss=float("nan")),
        step(1, train_loss=None),
        step(1, tokens_per_second="fast"),
        {"type": "failed", "message": ""},
        {"type": "invalid", "file": "model", "line": 1, "message": "x"},
    ],
)
def test_a_record_of_another_form_is_refused(desk: TrainingDesk, record: dict[str, Any]) -> None:
    job_id = desk.training()
    with pytest.raises(InvalidRequest):
        desk.report(job_id, 1, record)
    assert desk.get(job_id).status is Status.RUNNING


def test_a_base_model_that_is_deleted_ends_the_job(desk: TrainingDesk) -> None:
    job_id = desk.create(training_file=desk.upload(jsonl(ROWS)))
    desk.registry.delete("smol", project_id=None)
    assert desk.reconciled(job_id).error_code == "base_model_deleted"


@pytest.mark.parametrize("ended", [True, False], ids=["after-its-process", "before-its-process"])
def test_a_base_model_that_is_deleted_in_a_training_is_the_reason_of_its_end(desk: TrainingDesk, ended: bool) -> None:
    job_id = desk.training()
    adapter = desk.result(job_id, 1, "adapter", b"x")
    desk.registry.delete("smol", project_id=None)
    with pytest.raises(Conflict) as refused:
        desk.report(job_id, 1, {"type": "checkpoint", "step": 3, "file_id": adapter})
    assert refused.value.code == "base_model_deleted"
    if ended:
        desk.scripted.end(f"{job_id}-1", Phase.FAILED, "exit_code", "The command ended with exit code 3.")
    job = desk.reconciled(job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "base_model_deleted")
    assert job.error_message == "The base model 'smol' was deleted, or is hidden by one of that name."
    desk.reconciled(job_id)
    assert f"{job_id}-1" not in desk.scripted.statuses


def test_a_model_that_cannot_be_loaded_fails_the_job(desk: TrainingDesk) -> None:
    job_id = desk.training(hyperparameters=epochs(2))
    adapter = desk.result(job_id, 1, "adapter", b"x")
    metrics = desk.result(job_id, 1, "metrics", b"step\n")
    desk.report(job_id, 1, {"type": "checkpoint", "step": 6, "file_id": adapter})
    desk.report(job_id, 1, {"type": "finished", "step": 6, "trained_tokens": 1, "file_id": metrics})
    desk.registry.mark_failed(desk.get(job_id).output_model, "It is no adapter.")
    job = desk.reconciled(job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "model_not_loaded")
    assert "It is no adapter." in str(job.error_message)


def epochs(number: int) -> Any:
    return RequestedHyperparameters(n_epochs=number)


def test_the_speed_of_a_job_is_the_estimate_of_the_next(desk: TrainingDesk) -> None:
    first = desk.training()
    desk.report(first, 1, step(1, tokens_per_second=30.0))
    second = desk.training(hyperparameters=epochs(2))
    job = desk.get(second)
    assert (job.estimated_tokens, job.seconds_left) == (120, 4.0)
    desk.report(second, 1, step(1, tokens_per_second=55.0))
    assert desk.get(second).seconds_left == 2.0
