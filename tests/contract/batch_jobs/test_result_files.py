"""What batch jobs leave becomes files of their projects: once, within quotas, in the name of who created the job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from llmariner.batch_jobs.events import CHANGE_REQUESTED
from llmariner.batch_jobs.references import BatchJobReferences
from llmariner.batch_jobs.tables import batch_job_results
from llmariner.errors import InvalidRequest, Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.jobs import Phase
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..platform.jobs.conftest import Memory, process_jobs, wait_for_end
from .scripted_jobs import BatchJobDesk

LEFT = {"model/adapter.bin": b"weights", "loss.csv": b"0.1\n"}


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> BatchJobDesk:
    made = BatchJobDesk(database, owner)
    made.files.store = Files(database, FolderObjects(tmp_path / "files"), FileSettings(), (BatchJobReferences(),))
    return made


def ended(desk: BatchJobDesk, left: dict[str, bytes]) -> str:
    """The id of a job that has ended and left files."""
    job_id = desk.create()
    desk.reconciler.reconcile(job_id)
    desk.scripted.run(job_id)
    desk.reconciler.reconcile(job_id)
    desk.scripted.left[job_id] = dict(left)
    desk.scripted.end(job_id, Phase.SUCCEEDED)
    return job_id


def test_each_file_is_one_of_the_project(desk: BatchJobDesk) -> None:
    store, job_id = desk.files.store, ended(desk, LEFT)
    assert store is not None
    desk.scripted.left_out = "Not kept: 'pipe', which is no regular file."
    job = desk.reconciled(job_id)
    assert [(each.name, each.size_bytes) for each in job.results] == [("loss.csv", 4), ("model/adapter.bin", 7)]
    assert (job.status, job.results_error) == (Phase.SUCCEEDED, desk.scripted.left_out)
    files = [store.get(desk.project_id, each.file_id) for each in job.results]
    assert [each.filename for each in files] == ["loss.csv", "adapter.bin"]
    assert {each.purpose for each in files} == {Purpose.BATCH_JOB_OUTPUT}
    assert b"".join(store.read(files[1])) == b"weights"
    assert desk.scripted.left == {}, "what was kept takes no more room"
    assert desk.jobs.page(desk.project_id, after=None, limit=5)[0][0].results == job.results
    store.delete(desk.caller, files[0].id)
    assert [each.name for each in desk.jobs.get(desk.project_id, job_id).results] == ["model/adapter.bin"]
    desk.jobs.delete(desk.caller, job_id)
    desk.reconciler.reconcile(job_id)
    assert store.get(desk.project_id, files[1].id), "the project's files stay"


def test_a_job_that_failed_leaves_files_too(desk: BatchJobDesk) -> None:
    job_id = ended(desk, LEFT)
    desk.scripted.end(job_id, Phase.FAILED, "exit_code", "It ended with exit code 3.")
    assert len(desk.reconciled(job_id).results) == 2


def test_who_is_killed_between_two_files_makes_none_twice(desk: BatchJobDesk, database: Database) -> None:
    store, job_id = desk.files.store, ended(desk, LEFT)
    assert store is not None
    read = desk.scripted.read_result

    def killed(job_id: str, name: str) -> Iterator[bytes]:
        if name == "model/adapter.bin":
            raise Unavailable("The store does not answer.")
        return read(job_id, name)

    desk.scripted.read_result = killed  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        desk.reconciler.reconcile(job_id)
    assert desk.jobs.get(desk.project_id, job_id).status is Phase.RUNNING, "it has not ended before its files are kept"
    desk.scripted.read_result = read  # type: ignore[method-assign]
    for _ in range(2):
        desk.reconciler.reconcile(job_id)
    assert len(store.page(desk.project_id, purpose=None, after=None, limit=9, order="asc")) == 2


def test_many_results_are_kept_in_slices(
    desk: BatchJobDesk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.batch_jobs.reconciler._RESULT_SECONDS", -1.0)  # over before it begins
    job_id = ended(desk, {f"{number}": b"x" * (number + 1) for number in range(3)})
    read = desk.scripted.read_result

    def unreadable(job_id: str, name: str) -> Iterator[bytes]:
        if name == "0":
            raise InvalidRequest("It has changed.")
        return read(job_id, name)

    desk.scripted.read_result = unreadable  # type: ignore[method-assign]
    asked = select(func.count()).select_from(events).where(events.c.type == CHANGE_REQUESTED)
    with database.read() as session:
        before = session.value(asked)
    assert desk.reconciled(job_id).status is Phase.RUNNING
    with database.read() as session:
        assert session.value(asked) == before + 1, "which continues it"
        assert len(session.rows(select(batch_job_results))) == 1
    job = desk.reconciled(job_id)
    assert (job.status, [each.name for each in job.results]) == (Phase.SUCCEEDED, ["1", "2"])
    assert job.results_error == "'0' was not kept: It has changed."


def test_of_two_processes_one_makes_the_file(desk: BatchJobDesk, database: Database) -> None:
    store, job_id = desk.files.store, ended(desk, LEFT)
    assert store is not None
    read = desk.scripted.read_result
    place = {"organization_id": desk.caller.organization_id, "project_id": desk.project_id}
    row = {"batch_job_id": job_id, "name": "loss.csv", "file_id": "file-other", "size_bytes": 4, **place}

    def faster(job_id: str, name: str) -> Iterator[bytes]:
        if name == "loss.csv":
            with database.write() as session:
                session.insert_if_absent(batch_job_results, [row])
        return read(job_id, name)

    desk.scripted.read_result = faster  # type: ignore[method-assign]
    assert desk.reconciled(job_id).results[0].file_id == "file-other"
    assert len(store.page(desk.project_id, purpose=None, after=None, limit=9, order="asc")) == 1


def test_a_full_quota_says_what_was_not_kept(desk: BatchJobDesk) -> None:
    store = desk.files.store
    assert store is not None
    store.settings = replace(store.settings, project_bytes=5)
    job = desk.reconciled(ended(desk, LEFT))
    assert [each.name for each in job.results] == ["loss.csv"]
    assert job.status is Phase.SUCCEEDED
    assert job.results_error is not None
    assert job.results_error.startswith("'model/adapter.bin' was not kept: ")


def test_two_calls_at_once_lose_no_result_where_the_room_is_just_enough(
    desk: BatchJobDesk, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.batch_jobs.reconciler._RESULT_SECONDS", -1.0)  # over before it begins
    job_id, settings = ended(desk, {"0": b"x" * 10, "1": b"y" * 5}), FileSettings(project_bytes=15)
    desk.files.store = Files(database, FolderObjects(tmp_path / "files"), settings, (BatchJobReferences(),))
    receive, calls = desk.files.receive, iter([True])

    def meet(owner: KeyOwner, **how: Any) -> Any:
        if next(calls, False):
            desk.reconciler.reconcile(job_id)
        return receive(owner, **how)

    desk.files.receive = meet  # type: ignore[method-assign]
    for _ in range(2):
        desk.reconciler.reconcile(job_id)
    job = desk.jobs.get(desk.project_id, job_id)
    assert (job.status, job.results_error) == (Phase.SUCCEEDED, None)
    assert [each.name for each in job.results] == ["0", "1"]


def test_a_job_that_is_deleted_meanwhile_leaves_no_more_files(desk: BatchJobDesk, database: Database) -> None:
    job_id = ended(desk, LEFT)
    receive, calls = desk.files.receive, iter([False, True])

    def meet(owner: KeyOwner, **how: Any) -> Any:
        if next(calls, False):
            desk.jobs.delete(desk.caller, job_id)
            desk.reconciler.reconcile(job_id)
        return receive(owner, **how)

    desk.files.receive = meet  # type: ignore[method-assign]
    desk.reconciler.reconcile(job_id)
    with database.read() as session:
        made = session.rows(select(files.c.filename, files.c.expires_at <= time.time()))
        assert [tuple(row) for row in made] == [("loss.csv", True)], "the sweep deletes what was made before"
        assert session.rows(select(batch_job_results)) == []


def test_nothing_is_kept_for_who_may_make_no_files_any_more(desk: BatchJobDesk, database: Database) -> None:
    job_id = ended(desk, LEFT)
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1.0))
    job = desk.reconciled(job_id)
    assert job.results == []
    assert str(job.results_error).startswith("No file was kept: ")


def test_a_real_job_leaves_a_file(desk: BatchJobDesk, tmp_path: Path) -> None:
    port = process_jobs(tmp_path / "jobs", Memory())
    port.subscribe(desk.reconciler.reconcile)
    port.start()
    desk.port = port
    try:
        if port.problem:
            pytest.skip(port.problem)
        job_id = desk.create(command="echo weights > output/model.bin")
        desk.reconciler.reconcile(job_id)
        wait_for_end(port, job_id)
        ends = time.monotonic() + 30
        desk.reconciler.reconcile(job_id)  # which does nothing where the observer is at it
        while port.results(job_id).files and time.monotonic() < ends:
            time.sleep(0.05)
        assert port.results(job_id).files == (), "what files were made of is deleted"
        assert [each.name for each in desk.jobs.get(desk.project_id, job_id).results] == ["model.bin"]
    finally:
        port.close()
