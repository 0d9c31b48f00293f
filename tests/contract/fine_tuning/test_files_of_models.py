"""Files that models are made of: they stay as long as the models do, also when both are deleted at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from llmariner.errors import Conflict, ModelNotFound, NotFound
from llmariner.file_settings import FileSettings
from llmariner.files.file import File
from llmariner.files.files import Files
from llmariner.files.references import FileUse
from llmariner.fine_tuning.references import FileDeleted, FineTuningReferences, keep_file
from llmariner.models.model import NewModel, SourceRepository
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .training_desk import TrainingDesk, step


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path)


def trained(desk: TrainingDesk) -> tuple[str, str]:
    """The name of the model of a new job that has ended, and its file."""
    name = str(desk.finish(desk.training()).fine_tuned_model)
    return name, desk.registry.get(name, project_id=desk.project_id).model_file_location


def refusal(desk: TrainingDesk, file_id: str) -> tuple[str, list[str]]:
    """What the deletion of a file in use says, and by what it is used."""
    with pytest.raises(Conflict) as raised:
        desk.files.delete(desk.caller, file_id)
    error = raised.value.body()["error"]
    assert error["code"] == "file_in_use"
    assert list(desk.files.get_many(desk.project_id, [file_id])) == [file_id]
    return error["message"], error["in_use_by"]


def is_there(desk: TrainingDesk, file_id: str) -> bool:
    return bool(desk.files.get_many(desk.project_id, [file_id]))


def test_a_file_is_deleted_after_the_model_that_is_made_of_it(desk: TrainingDesk) -> None:
    name, file_id = trained(desk)
    message, users = refusal(desk, file_id)
    assert users == [f"the model '{name}'"]
    assert f"Delete the model first: DELETE /v1/models/{name}. Then delete the file again." in message
    desk.registry.delete(name, project_id=desk.project_id)
    desk.files.delete(desk.caller, file_id)
    assert not is_there(desk, file_id)


def add_project(desk: TrainingDesk, name: str) -> None:
    with desk.database.write() as session:
        row = {"id": name, "organization_id": desk.owner.organization_id, "title": name, "is_default": False}
        session.add(projects, **row, created_at=1)


def test_a_model_that_another_project_may_use_keeps_the_file(desk: TrainingDesk) -> None:
    add_project(desk, "proj_b")
    name, file_id = trained(desk)
    [given] = desk.tuning.permissions.create(desk.caller, name, ["proj_b"])
    assert len(refusal(desk, file_id)[1]) == 2
    desk.registry.delete(name, project_id=desk.project_id)
    message, users = refusal(desk, file_id)
    assert users == [f"the model '{name}' of another project"]
    assert f"GET /v1/fine_tuning/checkpoints/{name}/permissions" in message
    assert "proj_b" not in message, "that is for administrators, and who may delete files may be none"
    desk.tuning.permissions.delete(desk.caller, name, given.id)
    desk.files.delete(desk.caller, file_id)


def test_a_model_that_nobody_permitted_is_not_named(desk: TrainingDesk) -> None:
    _, file_id = trained(desk)
    new = NewModel("theirs", SourceRepository.FINE_TUNING, f"{desk.project_id}/{file_id}", "smol", "proj_x")
    add_project(desk, "proj_x")
    desk.registry.create(new)
    message, users = refusal(desk, file_id)
    assert "a model of another project" in users
    assert "theirs" not in message


def test_files_of_an_archived_project_go_though_its_models_are_there(desk: TrainingDesk) -> None:
    add_project(desk, "proj_b")
    (_, own), (name, shared) = trained(desk), trained(desk)
    [given] = desk.tuning.permissions.create(desk.caller, name, ["proj_b"])
    with desk.database.write() as session:
        archived = update(projects).where(projects.c.id == desk.project_id).values(archived_at=time.time() - 60 * 86400)
        session.run(archived)
    desk.files.delete_orphans()
    assert (is_there(desk, own), is_there(desk, shared)) == (False, True)
    desk.tuning.permissions.delete(desk.caller, name, given.id)
    desk.files.delete_orphans()
    assert not is_there(desk, shared)


def test_a_checkpoint_whose_model_is_not_there_yet_keeps_its_file(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.training()
    file_id = desk.result(job_id, 1, "adapter", b"three")
    record = {"type": "checkpoint", "step": 3, "file_id": file_id}
    with monkeypatch.context() as patched:
        patched.setattr("llmariner.models.registry.ModelRegistry.create", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.report(job_id, 1, step(3), record)
    assert refusal(desk, file_id)[1] == [f"the fine-tuning job {job_id}"]
    desk.jobs.cancel(desk.caller, job_id)
    desk.files.delete(desk.caller, file_id)


def test_what_was_deleted_after_its_report_makes_no_model(desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, create = desk.training(), desk.registry.create
    file_id = desk.result(job_id, 1, "adapter", b"three")

    def canceled_first(*arguments: object, **named: object) -> object:
        desk.jobs.cancel(desk.caller, job_id)
        desk.files.delete(desk.caller, file_id)
        return create(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.registry, "create", canceled_first)
    with pytest.raises(Conflict):  # the attempt has ended
        desk.report(job_id, 1, step(3), {"type": "checkpoint", "step": 3, "file_id": file_id})
    with pytest.raises(ModelNotFound):
        desk.registry.get(f"{desk.get(job_id).output_model}:ckpt-step-3", project_id=desk.project_id)


def in_the_middle(first: Callable[[Callable[[], None]], None], second: Callable[[], None]) -> None:
    """Do the second while the first waits in its transaction; it must not be done before that ends."""
    begun, done = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        assert not done.wait(0.2)

    def other() -> None:
        assert begun.wait(10)
        try:
            second()
        finally:
            done.set()

    with ThreadPoolExecutor(2) as pool:
        for each in (pool.submit(first, pause), pool.submit(other)):
            each.result(timeout=60)


def test_a_file_is_not_deleted_while_a_model_of_it_is_registered(desk: TrainingDesk) -> None:
    name, file_id = trained(desk)
    desk.registry.delete(name, project_id=desk.project_id)

    def register(pause: Callable[[], None]) -> None:
        def check(session: WriteSession) -> None:
            keep_file(session, file_id)
            pause()

        new = NewModel("again", SourceRepository.FINE_TUNING, file_id, "smol", desk.project_id)
        desk.registry.create(new, check=check)

    def delete() -> None:
        assert refusal(desk, file_id)[1] == ["the model 'again'"]

    in_the_middle(register, delete)


def test_no_model_is_registered_while_its_file_is_deleted(desk: TrainingDesk) -> None:
    add_project(desk, "proj_b")
    name, file_id = trained(desk)
    desk.registry.delete(name, project_id=desk.project_id)

    class Slow:
        def __init__(self, pause: Callable[[], None]) -> None:
            self._pause = pause

        def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
            return ()

        def on_file_deleted(self, session: WriteSession, file: File) -> None:
            self._pause()

    def delete(pause: Callable[[], None]) -> None:
        files = Files(desk.database, desk.objects, FileSettings(), (FineTuningReferences(), Slow(pause)))
        files.delete(desk.caller, file_id)

    def register() -> None:
        new = NewModel("late", SourceRepository.FINE_TUNING, file_id, "smol", desk.project_id)
        with pytest.raises(FileDeleted) as raised:
            desk.registry.create(new, check=lambda session: keep_file(session, file_id))
        assert isinstance(raised.value, NotFound)

    in_the_middle(delete, register)
    with pytest.raises(ModelNotFound):
        desk.registry.get("late", project_id=desk.project_id)
