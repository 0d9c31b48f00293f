"""What becomes of a job whose process is ended: interrupted, paused, canceled, out of time; what the sweep makes up for."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from llmariner.errors import Conflict
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.port_ids import job_id_of
from llmariner.fine_tuning.tables import fine_tuning_events, fine_tuning_jobs
from llmariner.platform.database import Database
from llmariner.platform.jobs import Job, JobStatus, Phase
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .desk import FineTuningDesk
from .training_desk import ROWS, TrainingDesk, jsonl, step

CHECKED = {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}}


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def test_an_interrupted_job_continues_from_its_last_state(desk: TrainingDesk) -> None:
    job_id = desk.training()
    states = [desk.result(job_id, 1, "state", content) for content in (b"state 1", b"state 2")]
    for number, state in enumerate(states, 1):
        desk.report(job_id, 1, step(number), {"type": "state", "step": number, "file_id": state})
    assert list(desk.files.get_many(desk.project_id, states)) == states[1:], "the state before is not needed any more"
    listed = desk.files.page(desk.project_id, purpose=None, after=None, limit=9, order="asc")
    assert [each.filename for each in listed] == ["train.jsonl"], "states are in no list"
    assert desk.files.count(desk.project_id, purpose=None) == 1
    with pytest.raises(Conflict, match=f"in use by the fine-tuning job {job_id}"):
        desk.files.delete(desk.caller, states[1])
    desk.report(job_id, 1, step(3))
    for attempt in range(1, 8):  # interruptions are nobody's fault, so their number has no limit
        desk.scripted.end(f"{job_id}-{attempt}", Phase.FAILED, "interrupted", "The platform stopped.")
        assert desk.reconciled(job_id).status is Status.QUEUED
        desk.reconciled(job_id)
        with pytest.raises(Conflict):
            desk.worker(job_id, attempt)
        plan = desk.tuning.workers.plan(desk.worker(job_id, attempt + 1))
        assert f"/{states[1]}/" in plan["checkpoint"]
        desk.report(job_id, attempt + 1, {"type": "training", "step": 2}, step(3))
    assert "Fine-tuning continues after step 2" in desk.messages(job_id)
    lost = desk.result(job_id, 8, "adapter", b"an adapter that was uploaded and not reported")
    assert desk.finish(job_id, 8).status is Status.SUCCEEDED
    desk.reconciled(job_id)
    assert desk.files.get_many(desk.project_id, [*states, lost]) == {}, (
        "an ended job leaves nothing that it does not need"
    )
    names = [
        file.filename for file in desk.files.page(desk.project_id, purpose=None, after=None, limit=9, order="desc")
    ]
    assert names == [f"{job_id}-step_metrics.csv", f"{job_id}-adapter_model.safetensors", "train.jsonl"]


def test_a_job_whose_process_is_unknown_continues(desk: TrainingDesk) -> None:
    job_id = desk.training()
    desk.scripted.statuses.clear()
    assert desk.reconciled(job_id).status is Status.QUEUED
    checked = desk.start()
    desk.scripted.end(f"{checked}-0", Phase.FAILED, "interrupted")
    assert desk.reconciled(checked).status is Status.VALIDATING_FILES
    desk.reconciled(checked)
    desk.report(checked, 1, CHECKED)
    assert desk.get(checked).status is Status.QUEUED


def test_a_process_that_fails_ends_the_job_with_the_cause(desk: TrainingDesk) -> None:
    said, crashed, killed, empty = (desk.training() for _ in range(4))
    desk.report(said, 1, {"type": "failed", "message": "The training failed: no memory."})
    desk.scripted.end(f"{crashed}-1", Phase.FAILED, "out_of_memory", "It used 9 MiB.")
    causes = {said: "training_failed", crashed: "out_of_memory", killed: "killed", empty: "failed"}
    for attempt in range(1, 6):
        desk.scripted.end(f"{killed}-{attempt}", Phase.FAILED, "killed", "It was killed.")
        desk.scripted.end(f"{empty}-{attempt}", Phase.SUCCEEDED)
        for _ in range(2):
            for job_id in causes:
                desk.reconciled(job_id)
    for job_id, code in causes.items():
        job = desk.get(job_id)
        assert (job.status, job.error_code) == (Status.FAILED, code)
        assert job.error_message
    assert f"{killed}-4" in desk.scripted.jobs
    assert f"{killed}-5" not in desk.scripted.jobs, "it is tried again three times"


def test_a_training_continues_after_its_time_as_long_as_it_comes_further(desk: TrainingDesk) -> None:
    out_of_time = (Phase.FAILED, "deadline_exceeded", "It ran longer than 9 s.")
    job_id = desk.training()
    for attempt in range(1, 7):
        state = desk.result(job_id, attempt, "state", b"state %d" % attempt)
        desk.report(job_id, attempt, {"type": "state", "step": attempt, "file_id": state})
        desk.scripted.end(f"{job_id}-{attempt}", *out_of_time)
        assert desk.reconciled(job_id).status is Status.QUEUED
        desk.reconciled(job_id)
    for attempt in range(7, 10):
        state = desk.result(job_id, attempt, "state", b"state 6 again %d" % attempt)
        desk.report(job_id, attempt, {"type": "state", "step": 6, "file_id": state})
        desk.scripted.end(f"{job_id}-{attempt}", *out_of_time)
        desk.reconciled(job_id)
        job = desk.reconciled(job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "deadline_exceeded")
    judged = desk.training()
    for attempt in range(1, 8):
        state = desk.result(judged, attempt, "state", b"of the base model %d" % attempt)
        desk.report(judged, attempt, {"type": "state", "step": 0, "graded": 8 * attempt, "file_id": state})
        desk.scripted.end(f"{judged}-{attempt}", *out_of_time)
        assert desk.reconciled(judged).status is Status.QUEUED, "it has graded more answers for its gate"
        desk.reconciled(judged)
    checked = desk.start()
    desk.scripted.end(f"{checked}-0", *out_of_time)
    assert desk.reconciled(checked).error_code == "deadline_exceeded", "another check would take as long"


def test_a_pause_happens_after_a_step_and_is_resumed(desk: TrainingDesk) -> None:
    job_id = desk.training()
    assert desk.report(job_id, 1, step(1)) == "continue"
    desk.jobs.pause(desk.caller, job_id)
    assert desk.report(job_id, 1, step(2)) == "pause"
    state = desk.result(job_id, 1, "state", b"state")
    desk.report(job_id, 1, {"type": "state", "step": 2, "file_id": state}, {"type": "paused", "step": 2})
    job = desk.get(job_id)
    assert (job.status, job.pause_requested_at) == (Status.PAUSED, None)
    with pytest.raises(Conflict):
        desk.worker(job_id, 1)
    assert desk.reconciled(job_id).status is Status.PAUSED
    assert list(desk.files.get_many(desk.project_id, [state])) == [state]
    assert desk.jobs.resume(desk.caller, job_id).status is Status.QUEUED
    desk.reconciled(job_id)
    assert f"/{state}/" in desk.tuning.workers.plan(desk.worker(job_id, 2))["checkpoint"]


def test_a_pause_that_a_crash_overtakes_is_a_pause(desk: TrainingDesk) -> None:
    job_id = desk.training()
    desk.jobs.pause(desk.caller, job_id)
    desk.scripted.end(f"{job_id}-1", Phase.FAILED, "interrupted")
    assert desk.reconciled(job_id).status is Status.PAUSED


def test_nothing_counts_that_a_canceled_job_says(desk: TrainingDesk) -> None:
    job_id = desk.training()
    worker = desk.worker(job_id, 1)
    file_id = desk.result(job_id, 1, "adapter", b"adapter")
    desk.jobs.cancel(desk.caller, job_id)
    for call in (
        lambda: desk.tuning.workers.report(worker, [step(5)]),
        lambda: desk.tuning.workers.report(worker, [{"type": "checkpoint", "step": 6, "file_id": file_id}]),
        lambda: desk.tuning.workers.plan(worker),
        lambda: desk.tuning.workers.upload_link(worker, "state", 1, "0" * 64),
        lambda: desk.worker(job_id, 1),
    ):
        with pytest.raises(Conflict) as raised:
            call()
        assert raised.value.code == "attempt_ended"
    assert desk.get(job_id).step == 0
    desk.reconciled(job_id)
    assert f"{job_id}-1" not in desk.scripted.statuses
    calls = len(desk.scripted.calls)
    desk.reconciled(job_id)
    assert len(desk.scripted.calls) == calls, "it is done with"


def test_the_sweep_makes_up_for_lost_events(desk: TrainingDesk, database: Database, other_owner: KeyOwner) -> None:
    others = FineTuningDesk(database, other_owner)
    orphan = others.create()
    waiting = desk.create(training_file=desk.upload(jsonl(ROWS)))
    ended = desk.training()
    desk.jobs.cancel(desk.caller, ended)
    desk.tuning.reconciler.reconcile_all(seconds=60)
    assert f"{waiting}-0" in desk.scripted.jobs
    assert f"{ended}-1" not in desk.scripted.statuses
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1))
    desk.tuning.reconciler.reconcile_all(seconds=60)
    assert desk.get(waiting).status is Status.CANCELLED
    with database.write() as session:
        session.run(delete(projects).where(projects.c.id == other_owner.project_id))
    desk.tuning.reconciler.reconcile_all(seconds=60)
    with database.read() as session:
        assert session.rows(select(fine_tuning_jobs.c.id).where(fine_tuning_jobs.c.id == orphan)) == []
        assert session.rows(select(fine_tuning_events).where(fine_tuning_events.c.job_id == orphan)) == []
    assert ("remove", f"{orphan}-0") in desk.scripted.calls


def test_a_job_that_fails_to_be_reconciled_holds_up_no_other(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = (desk.create(training_file=desk.upload(jsonl(ROWS))) for _ in range(2))
    submit = desk.scripted.submit

    def fail(job: Job) -> JobStatus:
        if job_id_of(job.id) == broken:
            raise RuntimeError("a defect")
        return submit(job)

    monkeypatch.setattr(desk.scripted, "submit", fail)
    for _ in range(2):
        desk.tuning.reconciler.reconcile_all(seconds=60)
    assert f"{other}-0" in desk.scripted.jobs
    desk.tuning.reconciler.reconcile_all(seconds=-1)


def test_without_a_port_jobs_wait(desk: TrainingDesk) -> None:
    job_id = desk.training()
    desk.port = None
    desk.tuning.reconciler.reconcile_all(seconds=60)
    assert desk.get(job_id).status is Status.RUNNING
    desk.tuning.reconciler.reconcile("ftjob-none")
