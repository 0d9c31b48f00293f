"""The rules of batch jobs: what is refused, tenants, states, and what reconciliation does about late and lost events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from llmariner.batch_jobs.references import BatchJobReferences
from llmariner.batch_jobs.tables import batch_job_files, batch_jobs
from llmariner.errors import Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from llmariner.files.file import file_from_row
from llmariner.files.tables import files
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.jobs import Job, JobStatus, Phase
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..platform.jobs.conftest import Memory, process_jobs, wait_for_end
from ..stored_files import Shelf
from .scripted_jobs import BatchJobDesk


@pytest.fixture
def desk(database: Database, owner: KeyOwner) -> BatchJobDesk:
    return BatchJobDesk(database, owner)


@pytest.fixture
def other_desk(database: Database, other_owner: KeyOwner) -> BatchJobDesk:
    return BatchJobDesk(database, other_owner)


@pytest.fixture
def shelf(database: Database, owner: KeyOwner) -> Shelf:
    return Shelf(database, owner)


def types_of(database: Database, job_id: str) -> list[str]:
    """The events of a job without the prefix and version of their types."""
    query = select(events.c.type).where(events.c.subject == f"batch_jobs/{job_id}").order_by(events.c.id)
    with database.read() as session:
        return [row.type.split(".")[-2] for row in session.rows(query)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown image": ({"image": "other"}, "image"),
    "an empty command": ({"command": " \n"}, "command"),
    "a NUL in the command": ({"command": "a\0b"}, "command"),
    "a long command": ({"command": "x" * 40_000}, "command"),
    "no script": ({"scripts": {}}, "scripts"),
    "a script above the folder": ({"scripts": {"../x": b""}}, "scripts"),
    "a hidden script": ({"scripts": {".profile": b""}}, "scripts"),
    "a script with a line break": ({"scripts": {"a\n": b""}}, "scripts"),
    "requirements": ({"scripts": {"requirements.txt": b""}}, "scripts"),
    "large scripts": ({"scripts": {"a": b"x" * 600_000, "b": b"x" * 600_000}}, "scripts"),
    "many scripts": ({"scripts": {f"s{number}": b"" for number in range(65)}}, "scripts"),
    "a variable with =": ({"envs": {"A=B": "x"}}, "envs"),
    "a variable of the platform": ({"envs": {"LLMARINER_JOB_ID": "x"}}, "envs"),
    "a NUL in a variable": ({"envs": {"A": "\0"}}, "envs.A"),
    "a long variable": ({"envs": {"A": "x" * 9000}}, "envs.A"),
    "many variables": ({"envs": {f"A{number}": "" for number in range(129)}}, "envs"),
    "a file twice": ({"data_files": ["file-1", "file-1"]}, "data_files"),
    "many files": ({"data_files": [f"file-{number}" for number in range(101)]}, "data_files"),
    "negative GPUs": ({"gpu_count": -1}, "resources.gpu_count"),
    "a GPU": ({"gpu_count": 1}, "resources.gpu_count"),
    "a negative number of restarts": ({"backoff_limit": -1}, "backoff_limit"),
    "many restarts": ({"backoff_limit": 11}, "backoff_limit"),
    "no worker": ({"worker_count": 0}, "kind.pytorch.worker_count"),
    "many workers": ({"worker_count": 9}, "kind.pytorch.worker_count"),
}


def test_what_no_job_may_have_is_refused(desk: BatchJobDesk) -> None:
    for name, (fields, param) in REFUSED.items():
        with pytest.raises(InvalidRequest) as raised:
            desk.create(**fields)
        assert raised.value.param == param, name
    assert desk.jobs.count(desk.project_id) == 0


def test_a_job_is_refused_where_nothing_runs_it(desk: BatchJobDesk) -> None:
    desk.scripted.problem = "The kernel has no namespaces."
    with pytest.raises(Unavailable, match="no namespaces") as raised:
        desk.create()
    assert (raised.value.code, raised.value.headers) == ("no_job_runner", {"x-should-retry": "false"})
    desk.port = None
    with pytest.raises(Unavailable):
        desk.create()
    with pytest.raises(InvalidRequest):
        desk.create(command="")


def test_data_files_are_the_projects_and_have_names_of_their_own(
    desk: BatchJobDesk, shelf: Shelf, other_owner: KeyOwner, database: Database
) -> None:
    theirs = Shelf(database, other_owner).file()
    for missing in (theirs, "file-none", shelf.file(expires_at=1)):
        with pytest.raises(NotFound) as raised:
            desk.create(data_files=[missing])
        assert (raised.value.param, missing in raised.value.message) == ("data_files", True)
    first, same, long = shelf.file(filename="a.txt"), shelf.file(filename="a.txt"), shelf.file(filename="ä" * 200)
    for files_ in ([first, same], [long]):
        with pytest.raises(InvalidRequest, match="Upload it under another name"):
            desk.create(data_files=files_)
    with pytest.raises(InvalidRequest) as large:
        desk.create(data_files=[shelf.file(size_bytes=2**40)])
    assert large.value.code == "data_too_large"
    assert desk.jobs.get(desk.project_id, desk.create(data_files=[first])).data_files == [first]


def test_data_files_stay_until_the_job_has_ended(desk: BatchJobDesk, shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    with database.read() as session:
        [row] = session.rows(select(files).where(files.c.id == file_id))
    file = file_from_row(row)
    desk.files.found[file_id] = file
    job_id, deleted = desk.create(data_files=[file_id]), desk.create(data_files=[file_id])

    def users() -> list[str]:
        with database.read() as session:
            return [use.user for use in BatchJobReferences().in_use_by(session, file)]

    assert users() == [f"the batch job {each}" for each in (job_id, deleted)]
    desk.jobs.delete(desk.caller, deleted)
    desk.reconciler.reconcile(job_id)
    [data] = desk.scripted.jobs[job_id].data_files
    assert (data.id, data.name) == (file_id, file.filename)
    desk.scripted.end(job_id, Phase.SUCCEEDED)
    assert desk.reconciled(job_id).status is Phase.SUCCEEDED
    assert users() == []


def test_a_data_file_that_expired_fails_the_job(desk: BatchJobDesk, shelf: Shelf) -> None:
    job = desk.reconciled(desk.create(data_files=[shelf.file()]))
    assert (job.status, job.error_code) == (Phase.FAILED, "data_file_unavailable")


def test_a_job_of_another_project_is_unknown(desk: BatchJobDesk, other_desk: BatchJobDesk) -> None:
    job_id = desk.create()
    said = set()
    for each in (job_id, "bj-none"):
        for call in (
            lambda each=each: other_desk.jobs.get(other_desk.project_id, each),
            lambda each=each: other_desk.jobs.cancel(other_desk.caller, each),
            lambda each=each: other_desk.jobs.delete(other_desk.caller, each),
            lambda each=each: other_desk.jobs.log(other_desk.project_id, each, 0),
            lambda each=each: other_desk.jobs.pause(other_desk.caller, each),
            lambda each=each: other_desk.jobs.resume(other_desk.caller, each),
            lambda each=each: other_desk.jobs.exec(other_desk.caller, each, ["ls"], b""),
        ):
            with pytest.raises(NotFound) as raised:
                call()
            said.add(raised.value.message.replace(each, "ID"))
    assert len(said) == 1
    assert other_desk.jobs.page(other_desk.project_id, after=None, limit=9) == ([], False)
    assert desk.jobs.get(desk.project_id, job_id).cancel_requested_at is None


def test_a_project_has_a_number_of_jobs_at_a_time(database: Database, owner: KeyOwner) -> None:
    desk = BatchJobDesk(database, owner, project_jobs=2)
    first, _ = desk.create(), desk.create()
    with pytest.raises(Conflict) as raised:
        desk.create()
    assert raised.value.code == "too_many_jobs"
    desk.jobs.delete(desk.caller, first)
    desk.create()


def test_a_list_is_paged_newest_first(desk: BatchJobDesk) -> None:
    ids = [desk.create() for _ in range(3)][::-1]
    page, more = desk.jobs.page(desk.project_id, after=None, limit=2)
    assert ([job.id for job in page], more) == (ids[:2], True)
    desk.jobs.delete(desk.caller, ids[1])
    page, more = desk.jobs.page(desk.project_id, after=ids[1], limit=2)
    assert ([job.id for job in page], more) == (ids[2:], False)
    assert desk.jobs.count(desk.project_id) == 2


def test_a_queued_job_is_paused_whether_it_was_submitted_or_not(desk: BatchJobDesk, database: Database) -> None:
    submitted, kept = desk.create(), desk.create()
    desk.reconciler.reconcile(submitted)
    for job_id in (submitted, kept):
        for _ in range(2):
            assert desk.jobs.pause(desk.caller, job_id).status is Phase.QUEUED
        for _ in range(2):
            assert desk.reconciled(job_id).status is Phase.PAUSED
        assert desk.jobs.pause(desk.caller, job_id).status is Phase.PAUSED
    assert kept not in desk.scripted.jobs
    for job_id in (submitted, kept):
        for _ in range(2):
            assert desk.jobs.resume(desk.caller, job_id).status is Phase.QUEUED
        assert desk.reconciled(job_id).status is Phase.QUEUED
        assert types_of(database, job_id) == [
            "queued",
            "change_requested",
            "change_requested",
            "paused",
            "resumed",
            "change_requested",
        ]
    desk.jobs.pause(desk.caller, kept)
    desk.reconciler.reconcile(kept)
    desk.jobs.cancel(desk.caller, kept)
    assert desk.reconciled(kept).status is Phase.CANCELED
    for change in (desk.jobs.pause, desk.jobs.resume):
        with pytest.raises(Conflict) as raised:
            change(desk.caller, kept)
        assert raised.value.code == "invalid_job_status"


def test_only_a_running_job_that_may_run_again_is_paused(desk: BatchJobDesk) -> None:
    once, again, began = desk.create(), desk.create(backoff_limit=1), desk.create()
    for job_id in (once, again):
        desk.reconciler.reconcile(job_id)
        desk.scripted.run(job_id)
        desk.reconciler.reconcile(job_id)
    with pytest.raises(Conflict) as raised:
        desk.jobs.pause(desk.caller, once)
    assert raised.value.code == "not_restartable"
    desk.jobs.pause(desk.caller, again)
    assert desk.reconciled(again).status is Phase.PAUSED
    desk.jobs.resume(desk.caller, again)
    assert desk.reconciled(again).status is Phase.QUEUED
    desk.scripted.run(again)
    job = desk.reconciled(again)
    assert (job.status, job.started_at, job.restarts) == (Phase.RUNNING, 5.0, 0)
    desk.reconciler.reconcile(began)
    desk.jobs.pause(desk.caller, began)
    desk.scripted.run(began)
    job = desk.reconciled(began)
    assert (job.status, job.pause_requested_at) == (Phase.RUNNING, None), "the pause came too late, and is forgotten"


def test_a_job_that_is_started_again_has_an_event_of_each_time(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create(backoff_limit=2)
    desk.reconciler.reconcile(job_id)
    assert desk.scripted.jobs[job_id].backoff_limit == 2
    desk.scripted.run(job_id)
    desk.reconciler.reconcile(job_id)
    waits = JobStatus(Phase.QUEUED, 6.0, place=1, code="exit_code", reason="It is started again.", restarts=1)
    desk.scripted.statuses[job_id] = waits
    for _ in range(2):
        job = desk.reconciled(job_id)
    assert (job.status, job.restarts, job.place, job.reason) == (Phase.QUEUED, 1, 1, "It is started again.")
    desk.scripted.statuses[job_id] = JobStatus(Phase.FAILED, 9.0, 8.0, code="exit_code", reason="Again.", restarts=2)
    job = desk.reconciled(job_id)
    assert (job.status, job.restarts, job.error_message) == (Phase.FAILED, 2, "Again.")
    assert types_of(database, job_id)[2:] == ["started", "requeued", "requeued", "finished"]


def test_a_job_goes_through_its_states_once(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create()
    assert desk.jobs.get(desk.project_id, job_id).status is Phase.QUEUED
    for _ in range(2):
        job = desk.reconciled(job_id)
    assert (job.status, job.place, job.reason) == (Phase.QUEUED, 3, "Jobs run before it.")
    sent = desk.scripted.jobs[job_id]
    assert (sent.command, sent.scripts, sent.environment) == (
        "sh scripts/run.sh",
        {"run.sh": b"echo \xff"},
        {"LR": "0.1"},
    )
    assert sent.project_id == desk.project_id
    desk.scripted.run(job_id)
    for _ in range(2):
        job = desk.reconciled(job_id)
    assert (job.status, job.started_at, job.place) == (Phase.RUNNING, 5.0, None)
    desk.scripted.end(job_id, Phase.FAILED, "exit_code", "It ended\0 with \ud800.")
    for _ in range(2):
        job = desk.reconciled(job_id)
    assert (job.status, job.finished_at, job.error_code) == (Phase.FAILED, 7.0, "exit_code")
    desk.scripted.end(job_id, Phase.SUCCEEDED)
    assert desk.reconciled(job_id).status is Phase.FAILED
    assert [call for call, _ in desk.scripted.calls] == ["submit", "cancel"], "what failed may hold nothing"
    assert sorted(types_of(database, job_id)) == ["change_requested", "finished", "queued", "started"]
    with database.read() as session:
        assert session.value(select(batch_jobs.c.scripts)) == "{}", "scripts are not kept"


def test_a_fast_job_has_started_before_it_finished(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create()
    desk.scripted.end(job_id, Phase.SUCCEEDED)
    assert desk.reconciled(job_id).started_at == 5.0
    assert types_of(database, job_id)[-2:] == ["started", "finished"]


def test_cancellation_is_said_to_have_happened_once_it_has(desk: BatchJobDesk, database: Database) -> None:
    queued, running, ended = (desk.create() for _ in range(3))
    desk.scripted.run(running)
    desk.scripted.end(ended, Phase.SUCCEEDED)
    for job_id in (running, ended):
        desk.reconciler.reconcile(job_id)
    for job_id in (queued, running, ended):
        for _ in range(2):
            job = desk.jobs.cancel(desk.caller, job_id)
        assert job.status is not Phase.CANCELED
        assert (job.cancel_requested_at is None) == (job_id == ended)
    states = [desk.reconciled(job_id).status for job_id in (queued, running, ended)]
    assert states == [Phase.CANCELED, Phase.CANCELED, Phase.SUCCEEDED]
    assert ("submit", queued) not in desk.scripted.calls
    assert types_of(database, running).count("change_requested") == 2


def test_a_deleted_job_is_gone_at_once_and_then_everywhere(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create()
    desk.reconciler.reconcile(job_id)
    assert desk.jobs.delete(desk.caller, job_id).id == job_id
    for call in (desk.jobs.delete, desk.jobs.cancel):
        with pytest.raises(NotFound):
            call(desk.caller, job_id)
    for _ in range(2):
        desk.reconciler.reconcile(job_id)
    assert desk.scripted.statuses == {}
    with database.read() as session:
        assert session.rows(select(batch_jobs)) == session.rows(select(batch_job_files)) == []


def test_events_that_were_lost_are_made_up_for(
    desk: BatchJobDesk, other_desk: BatchJobDesk, database: Database
) -> None:
    waiting, ended, deleted = (desk.create() for _ in range(3))
    orphan = other_desk.create()
    desk.scripted.end(ended, Phase.SUCCEEDED)
    desk.jobs.delete(desk.caller, deleted)
    with database.write() as session:
        session.run(delete(projects).where(projects.c.id == other_desk.project_id))
    desk.reconciler.reconcile_all(seconds=60)
    assert set(desk.scripted.calls) == {("submit", waiting), ("remove", deleted), ("remove", orphan)}
    assert desk.jobs.get(desk.project_id, ended).status is Phase.SUCCEEDED
    with database.read() as session:
        assert {row.id for row in session.rows(select(batch_jobs.c.id))} == {waiting, ended}


def test_the_jobs_of_an_archived_project_end(desk: BatchJobDesk, other_desk: BatchJobDesk, database: Database) -> None:
    running, queued, others = desk.create(), desk.create(), other_desk.create()
    desk.scripted.run(running)
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1))
    for _ in range(2):
        desk.reconciler.reconcile_all(seconds=60)
    ended = {job.id: job.status for job in desk.jobs.page(desk.project_id, after=None, limit=9)[0]}
    assert ended == {running: Phase.CANCELED, queued: Phase.CANCELED}
    assert other_desk.jobs.get(other_desk.project_id, others).cancel_requested_at is None
    assert desk.scripted.calls.count(("cancel", running)) == 1


def test_a_job_that_ran_and_is_unknown_now_was_interrupted(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create()
    desk.scripted.run(job_id)
    desk.reconciler.reconcile(job_id)
    desk.scripted.statuses.clear()
    job = desk.reconciled(job_id)
    assert (job.status, job.error_code) == (Phase.FAILED, "interrupted")
    assert ("submit", job_id) not in desk.scripted.calls


def test_without_a_port_jobs_end_wait_and_are_deleted(desk: BatchJobDesk, database: Database) -> None:
    running, queued, canceled, deleted = (desk.create() for _ in range(4))
    desk.scripted.run(running)
    desk.reconciler.reconcile(running)
    desk.jobs.cancel(desk.caller, canceled)
    desk.jobs.delete(desk.caller, deleted)
    desk.port = None
    desk.reconciler.reconcile_all(seconds=60)
    found = {job.id: job for job in desk.jobs.page(desk.project_id, after=None, limit=9)[0]}
    assert {each: job.status for each, job in found.items()} == {
        running: Phase.FAILED,
        queued: Phase.QUEUED,
        canceled: Phase.CANCELED,
    }
    assert found[queued].reason == "No jobs run here."


def test_an_event_of_an_id_that_never_was_changes_nothing(desk: BatchJobDesk) -> None:
    desk.reconciler.reconcile("bj-none")
    assert desk.scripted.calls == [("remove", "bj-none")]
    desk.port = None
    desk.reconciler.reconcile("bj-none")


def test_a_job_is_shown_as_it_was_recorded(desk: BatchJobDesk, database: Database) -> None:
    job_id = desk.create()
    desk.scripted.statuses[job_id] = JobStatus(Phase.RUNNING, 5.0, 5.0)
    assert desk.jobs.get(desk.project_id, job_id).status is Phase.QUEUED, "the row says what was recorded"
    with database.write() as session:
        session.run(update(batch_jobs).values(envs=json.dumps({"A": "ä"})))
    assert desk.jobs.get(desk.project_id, job_id).envs == {"A": "ä"}


@pytest.fixture
def real_desk(desk: BatchJobDesk, tmp_path: Path) -> Iterator[BatchJobDesk]:
    """Jobs that run as processes."""
    port = process_jobs(tmp_path / "jobs", Memory())
    port.subscribe(desk.reconciler.reconcile)
    port.start()
    if port.problem:
        port.close()
        pytest.skip(port.problem)
    desk.port = port
    yield desk
    port.close()


def test_a_real_job_is_recorded_without_another_event(real_desk: BatchJobDesk, database: Database) -> None:
    command = "sh scripts/run.sh; echo $LR; exit 3"
    job_id = real_desk.create(command=command, scripts={"run.sh": b"echo from the script"})
    real_desk.reconciler.reconcile(job_id)
    assert real_desk.port is not None
    wait_for_end(real_desk.port, job_id)
    assert real_desk.jobs.log(real_desk.project_id, job_id, 0).data == b"from the script\n0.1\n"
    real_desk.reconciler.reconcile(job_id)  # the observer may be at it
    job = real_desk.jobs.get(real_desk.project_id, job_id)
    assert (job.status, job.error_code) == (Phase.FAILED, "exit_code")
    assert sorted(types_of(database, job_id)) == ["change_requested", "finished", "queued", "started"]
    real_desk.jobs.delete(real_desk.caller, job_id)
    real_desk.reconciler.reconcile(job_id)
    with pytest.raises(PlatformError):
        real_desk.jobs.log(real_desk.project_id, job_id, 0)
    assert real_desk.port.status(job_id) is None


def test_a_job_that_was_canceled_or_deleted_while_nothing_ran_jobs_never_starts(
    desk: BatchJobDesk, tmp_path: Path
) -> None:
    canceled, deleted, kept = (desk.create(command="echo ran") for _ in range(3))
    desk.port = earlier = process_jobs(tmp_path / "jobs", Memory())
    for each in (canceled, deleted, kept):
        desk.reconciler.reconcile(each)
    earlier.close()
    desk.port = None
    desk.jobs.cancel(desk.caller, canceled)
    desk.jobs.delete(desk.caller, deleted)
    desk.reconciler.reconcile_all(seconds=60)
    assert desk.jobs.get(desk.project_id, canceled).status is Phase.CANCELED
    desk.port = port = process_jobs(tmp_path / "jobs", Memory())
    port.subscribe(desk.reconciler.reconcile)
    ran: set[str] = set()
    port.subscribe(lambda job_id: ran.add(job_id) if (port.status(job_id) or ended).started_at else None)
    ended = JobStatus(Phase.CANCELED, 1.0)
    port.start()
    try:
        if port.problem:
            pytest.skip(port.problem)
        assert wait_for_end(port, kept).phase is Phase.SUCCEEDED
        assert wait_for_end(port, canceled).phase is Phase.CANCELED
        assert ran == {kept}
    finally:
        port.close()


def test_the_sweep_comes_to_every_job_although_one_fails_and_its_time_is_short(
    desk: BatchJobDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = sorted(desk.create() for _ in range(4))
    submit = desk.scripted.submit

    def slow_submit(job: Job) -> JobStatus:
        time.sleep(0.06)
        if job.id == ids[0]:
            raise OSError("No space left on device")
        return submit(job)

    monkeypatch.setattr(desk.scripted, "submit", slow_submit)
    deadline = time.monotonic() + 30
    while set(desk.scripted.jobs) != set(ids[1:]):
        assert time.monotonic() < deadline, desk.scripted.jobs
        desk.reconciler.reconcile_all(seconds=0.05)
    assert f"batch job {ids[0]} was not reconciled" in caplog.text
    monkeypatch.undo()
    while ids[0] not in desk.scripted.jobs:
        assert time.monotonic() < deadline
        desk.reconciler.reconcile_all(seconds=0.05)
