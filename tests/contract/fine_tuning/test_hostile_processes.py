"""What the process of a job can do that somebody else has taken over: it makes no model for free, and leaves nothing."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import func, select, update

from llmariner.errors import Conflict, InvalidRequest
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.tables import fine_tuning_events, fine_tuning_jobs
from llmariner.models.tables import models
from llmariner.platform.database import Database
from llmariner.platform.jobs import Job, JobStatus
from llmariner.tenancy.principal import KeyOwner

from .training_desk import ROWS, TrainingDesk, jsonl, put_training_price, step


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def models_of_project(desk: TrainingDesk) -> int:
    with desk.database.read() as session:
        query = select(func.count()).select_from(models).where(models.c.project_id == desk.project_id)
        return int(session.value(query))


def checkpoint(number: int, file_id: str) -> dict[str, Any]:
    return {"type": "checkpoint", "step": number, "file_id": file_id}


def test_a_check_makes_no_model(desk: TrainingDesk) -> None:
    job_id = desk.start()
    adapter = desk.result(job_id, 0, "adapter", b"an adapter that was never trained")
    with pytest.raises(InvalidRequest):
        desk.report(job_id, 0, checkpoint(6, adapter))
    assert models_of_project(desk) == 0


def test_a_job_has_the_steps_and_checkpoints_of_its_file_and_no_others(desk: TrainingDesk) -> None:
    job_id = desk.training()
    file_id = desk.result(job_id, 1, "adapter", b"adapter")
    records = [checkpoint(number, file_id) for number in (0, 1, 2, 4, 7, 9, 2**52)]
    records += [step(1, step=number, trained_tokens=0) for number in (7, 2**52)]
    records += [{"type": type_, "step": 7, "file_id": file_id} for type_ in ("state", "paused")]
    for record in records:
        with pytest.raises(InvalidRequest) as raised:
            desk.report(job_id, 1, record)
        assert raised.value.param == "records.step"
    assert models_of_project(desk) == 0
    c = fine_tuning_events.c
    with desk.database.read() as session:
        assert session.rows(select(c.id).where(c.job_id == job_id, c.step.is_not(None))) == []
    desk.report(job_id, 1, checkpoint(3, file_id), checkpoint(6, file_id))
    assert models_of_project(desk) == 2


@pytest.mark.parametrize("name", ["train_loss", "tokens_per_second", "trained_tokens"])
def test_a_number_that_no_float_holds_is_refused(desk: TrainingDesk, name: str) -> None:
    job_id = desk.training()
    with pytest.raises(InvalidRequest) as raised:
        desk.report(job_id, 1, step(1, **{name: 10**400}))
    assert raised.value.param == f"records.{name}"


def test_a_model_costs_the_epochs_that_made_it_whatever_its_process_counts(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "*", 3_000_000)
    job_id = desk.training()
    file_id = desk.result(job_id, 1, "adapter", b"adapter")
    for number, cost in ((3, 180), (6, 360), (3, 360)):
        desk.report(job_id, 1, step(number, trained_tokens=0), checkpoint(number, file_id))
        assert (desk.get(job_id).trained_tokens, desk.get(job_id).cost) == (cost // 3, cost)


def test_an_end_that_is_reported_again_wakes_nobody(desk: TrainingDesk) -> None:
    job_id = desk.training()
    metrics = desk.result(job_id, 1, "metrics", b"step\n")
    before = desk.outbox(job_id)
    desk.report(job_id, 1, *[{"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics}] * 100)
    assert len(desk.outbox(job_id)) == len(before) + 1


def test_a_job_that_has_its_result_needs_no_process_and_no_pause(desk: TrainingDesk) -> None:
    job_id = desk.training()
    adapter, metrics = desk.result(job_id, 1, "adapter", b"adapter"), desk.result(job_id, 1, "metrics", b"step\n")
    finished = {"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics}
    desk.report(job_id, 1, step(6, trained_tokens=120), checkpoint(6, adapter), finished)
    desk.jobs.pause(desk.caller, job_id)
    del desk.scripted.statuses[f"{job_id}-1"]  # the machine is started again
    assert desk.reconciled(job_id).status == "running"
    assert list(desk.scripted.statuses) == []
    desk.load(desk.get(job_id).output_model)
    assert desk.reconciled(job_id).status == "succeeded"


def test_a_report_that_is_refused_makes_no_model(desk: TrainingDesk) -> None:
    job_id = desk.training()
    adapter = desk.result(job_id, 1, "adapter", b"adapter")
    with pytest.raises(InvalidRequest):
        desk.report(job_id, 1, checkpoint(3, adapter), {"type": "none"})
    assert (models_of_project(desk), desk.get(job_id).trained_tokens) == (0, 0)


def test_no_process_outlives_pauses_that_nobody_saw(desk: TrainingDesk) -> None:
    job_id = desk.start()
    desk.report(job_id, 0, {"type": "checked", "training_file": {"examples": 12, "tokens": 60}})
    desk.reconciled(job_id)
    desk.scripted.run(f"{job_id}-1")
    for end in (desk.jobs.resume, desk.jobs.cancel):
        for _ in range(3):
            desk.jobs.pause(desk.caller, job_id)
            desk.jobs.resume(desk.caller, job_id)
        desk.jobs.pause(desk.caller, job_id)
        end(desk.caller, job_id)
        desk.reconciled(job_id)
        left = [name for name in desk.scripted.statuses if name.startswith(job_id)]
        assert left == ([f"{job_id}-5"] if end == desk.jobs.resume else [])


def test_no_process_is_left_of_a_job_that_is_canceled_while_it_is_submitted(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, submit = desk.start(), desk.scripted.submit
    desk.report(job_id, 0, {"type": "checked", "training_file": {"examples": 12, "tokens": 60}})

    def submit_late(job: Job) -> JobStatus:
        monkeypatch.undo()
        desk.jobs.cancel(desk.caller, job_id)
        desk.reconciled(job_id)  # another replica, which finds nothing to end
        return submit(job)

    monkeypatch.setattr(desk.scripted, "submit", submit_late)
    desk.reconciled(job_id)
    assert list(desk.scripted.statuses) == []


def test_what_is_submitted_after_the_end_is_ended_when_it_is_seen(desk: TrainingDesk) -> None:
    job_id = desk.training()
    late = desk.scripted.jobs[f"{job_id}-1"]
    desk.jobs.cancel(desk.caller, job_id)
    desk.reconciled(job_id)
    desk.scripted.submit(late)  # its process is killed then
    desk.reconciled(job_id)
    assert list(desk.scripted.statuses) == []


def test_what_arrives_after_the_end_is_deleted(desk: TrainingDesk) -> None:
    job_id, content, links = desk.training(), b"late", []
    for kind in ("state", "adapter", "metrics"):
        digest = hashlib.sha256(content).hexdigest()
        url = desk.tuning.workers.upload_link(desk.worker(job_id, 1), kind, len(content), digest)
        links.append(desk.upload_links.open(parse_qs(urlsplit(url).query)["link"][0]))
    desk.finish(job_id)
    desk.reconciled(job_id)
    kept = [
        desk.upload(jsonl(ROWS[:11])),
        desk.result(desk.training(), 1, "state", b"of a job that runs"),
        *results(desk),
    ]
    late = []
    for link in links:
        with desk.files.receive(desk.owner, purpose=None, size_bytes=0, limit_bytes=2**20) as incoming:
            incoming.write(content)
            late.append(desk.files.save(desk.owner, link.terms.new, incoming).id)
    desk.tuning.reconciler.reconcile_all(seconds=60)
    assert sorted(desk.files.get_many(desk.project_id, [*late, *kept])) == sorted(kept)


def results(desk: TrainingDesk) -> list[str]:
    """The ids of an adapter and of metrics."""
    with desk.database.read() as session:
        rows = session.rows(select(files.c.id).where(files.c.purpose == Purpose.FINE_TUNE_RESULTS))
    assert len(rows) == 2
    return [row.id for row in rows]


def test_a_process_on_a_lost_node_is_not_heard_once_another_has_taken_over(desk: TrainingDesk) -> None:
    job_id, workers = desk.training(), desk.tuning.workers
    lost, next_ = (desk.worker(job_id, 1, digit * 32) for digit in "ab")
    assert workers.plan(lost)["checkpoint"] is None
    states = [desk.result(job_id, 1, "state", content) for content in (b"three", b"five")]
    workers.report(lost, [step(3), {"type": "state", "step": 3, "file_id": states[0]}])
    state = workers.plan(next_)["checkpoint"]
    assert workers.link(next_, "checkpoint").partition("?")[0] == state.partition("?")[0]
    with pytest.raises(Conflict):  # and by asking it takes nothing over
        workers.link(lost, "checkpoint")
    late = [{"type": "state", "step": 5, "file_id": states[1]}], [{"type": "failed", "message": "The disk is full."}]
    for records in late:
        with pytest.raises(Conflict) as raised:
            workers.report(lost, records)
        assert raised.value.code == "attempt_ended"
    with pytest.raises(Conflict):
        workers.upload_link(lost, "state", 1, "0" * 64)
    [kept] = desk.files.get_many(desk.project_id, states[:1])
    assert workers.plan(next_)["checkpoint"].partition("?")[0] == state.partition("?")[0], "it may ask again"
    assert workers.report(next_, [step(4)]) == "continue"
    assert kept == states[0]
    assert desk.report(job_id, 1, step(5)) == "continue", "one of the release before has no id"
    with pytest.raises(InvalidRequest):
        desk.worker(job_id, 1, "x" * 32)


def test_a_model_that_a_crash_prevented_is_made_of_the_file_of_its_checkpoint(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.training()
    first, second = (desk.result(job_id, 1, "adapter", content) for content in (b"one", b"the same again"))
    with monkeypatch.context() as patched:
        patched.setattr("llmariner.models.registry.ModelRegistry.create", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.report(job_id, 1, checkpoint(3, first))
    assert models_of_project(desk) == 0
    desk.report(job_id, 1, checkpoint(3, second))
    [found], _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert desk.registry.get(found.model, project_id=desk.project_id).model_file_location == first


def test_a_process_that_does_not_pause_is_ended(desk: TrainingDesk) -> None:
    job_id = desk.training()
    state = desk.result(job_id, 1, "state", b"of step 1")
    desk.report(job_id, 1, step(1), {"type": "state", "step": 1, "file_id": state})
    desk.jobs.pause(desk.caller, job_id)
    assert desk.reconciled(job_id).status is Status.RUNNING, "it has time for its present step"
    with desk.database.write() as session:
        this = update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id)
        session.run(this.values(pause_requested_at=time.time() - 1000))
    assert desk.report(job_id, 1, step(2)) == "pause"
    assert desk.reconciled(job_id).status is Status.PAUSED
    with pytest.raises(Conflict):
        desk.worker(job_id, 1)
    desk.reconciled(job_id)
    assert f"{job_id}-1" not in desk.scripted.statuses
    desk.jobs.resume(desk.caller, job_id)
    desk.reconciled(job_id)
    assert f"/{state}/" in desk.tuning.workers.plan(desk.worker(job_id, 2))["checkpoint"]
