"""Permissions of projects to use another project's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from llmariner.fine_tuning.file_locations import file_of
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.permissions import CheckpointPermissions
from llmariner.models.model import ActivationStatus, NewModel, SourceRepository
from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..stored_files import member_of
from .training_desk import TrainingDesk, step


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    made = TrainingDesk(database, owner, tmp_path / "objects")
    with database.write() as session:
        for name in ("proj_b", "proj_c"):
            row = {"id": name, "organization_id": owner.organization_id, "title": name, "is_default": False}
            session.add(projects, **row, created_at=1)
    return made


@pytest.fixture
def permissions(desk: TrainingDesk) -> CheckpointPermissions:
    return desk.tuning.permissions


def page(permissions: CheckpointPermissions, desk: TrainingDesk, checkpoint: str, **query: object) -> list[str]:
    """The projects that may use a checkpoint."""
    said = {"project_id": None, "after": None, "limit": 10, "order": "ascending", **query}
    return [each.project_id for each in permissions.page(desk.caller, checkpoint, **said)[0]]  # type: ignore[arg-type]


def test_a_permitted_project_has_the_model_until_the_permission_ends(
    desk: TrainingDesk, permissions: CheckpointPermissions, database: Database
) -> None:
    name = str(desk.finish(desk.training()).fine_tuned_model)
    for _ in range(2):
        first, second = permissions.create(desk.caller, name, ["proj_b", "proj_c"])
    assert page(permissions, desk, name) == ["proj_b", "proj_c"]
    assert page(permissions, desk, name, order="descending", limit=1) == ["proj_c"]
    assert page(permissions, desk, name, after=first.id) == ["proj_c"]
    assert page(permissions, desk, name, project_id="proj_b") == ["proj_b"]
    own = desk.registry.get(name, project_id=desk.project_id)
    theirs = desk.registry.get(name, project_id="proj_b")
    assert (theirs.name, theirs.project_id, theirs.base_model_id) == (name, "proj_b", own.base_model_id)
    assert file_of(theirs.model_file_location, "proj_b") == (desk.project_id, own.model_file_location)
    assert file_of(own.model_file_location, desk.project_id) == (desk.project_id, own.model_file_location)
    desk.load(theirs.id)
    desk.registry.activate(theirs.name, ActivationStatus.ACTIVE, project_id="proj_b")
    permissions.delete(desk.caller, name, first.id)
    with pytest.raises(ModelNotFound):
        desk.registry.get(name, project_id="proj_b")
    assert desk.registry.get(name, project_id="proj_c").project_id == "proj_c"
    assert desk.registry.get(name, project_id=desk.project_id).id == own.id
    assert page(permissions, desk, name) == ["proj_c"]
    with pytest.raises(NotFound):
        permissions.delete(desk.caller, name, first.id)
    permissions.delete(desk.caller, name, second.id)
    assert page(permissions, desk, name) == []
    kind = audit_log.c.type.startswith("checkpoint.permission.")
    with database.read() as session:
        types = [
            row.type.rpartition(".")[2] for row in session.rows(select(audit_log).where(kind).order_by(audit_log.c.id))
        ]
    assert types == ["created", "created", "deleted", "deleted"]


def test_what_cannot_be_permitted_is_refused(
    desk: TrainingDesk, permissions: CheckpointPermissions, other_owner: KeyOwner
) -> None:
    name = str(desk.finish(desk.training()).fine_tuned_model)
    for projects_ in ([], ["proj_b"] * 101, [desk.project_id]):
        with pytest.raises(InvalidRequest) as raised:
            permissions.create(desk.caller, name, projects_)
        assert raised.value.param == "project_ids"
    for missing in (other_owner.project_id, "proj_none"):
        with pytest.raises(NotFound, match=f"No such project: '{missing}'"):
            permissions.create(desk.caller, name, ["proj_b", missing])
    outsider = member_of(other_owner)
    said = set()
    for checkpoint, caller in ((name, outsider), ("ft:none", outsider), ("ft:none", desk.caller)):
        with pytest.raises(NotFound) as unknown:
            permissions.create(caller, checkpoint, ["proj_b"])
        said.add(unknown.value.message.replace(checkpoint, "NAME"))
    assert len(said) == 1
    assert page(permissions, desk, name) == []
    [given] = permissions.create(desk.caller, name, ["proj_b"])
    with pytest.raises(NotFound):
        permissions.delete(outsider, name, given.id)
    desk.registry.create(NewModel(name, SourceRepository.LOCAL, "/own", project_id="proj_c"))
    with pytest.raises(Conflict):
        permissions.create(desk.caller, name, ["proj_c"])
    permissions.delete(desk.caller, name, given.id)
    assert desk.registry.get(name, project_id="proj_c").model_file_location == "/own"


def test_the_model_that_a_project_made_itself_meanwhile_stays(
    desk: TrainingDesk, permissions: CheckpointPermissions
) -> None:
    name = str(desk.finish(desk.training()).fine_tuned_model)
    [given] = permissions.create(desk.caller, name, ["proj_b"])
    desk.registry.delete(name, project_id="proj_b")
    desk.registry.create(NewModel(name, SourceRepository.LOCAL, "/own", project_id="proj_b"))
    permissions.delete(desk.caller, name, given.id)
    assert desk.registry.get(name, project_id="proj_b").model_file_location == "/own"


def test_a_base_model_of_a_project_is_not_shared_with_its_checkpoints(
    desk: TrainingDesk, permissions: CheckpointPermissions
) -> None:
    new = NewModel("ours", SourceRepository.LOCAL, "/models/ours", project_id=desk.project_id)
    desk.registry.create(new)
    desk.load("ours")
    name = desk.finish(desk.training(model="ours")).output_model
    with pytest.raises(InvalidRequest, match="belongs to a project"):
        permissions.create(desk.caller, name, ["proj_b"])


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/models/x",
        "file-",
        "file-1/..",
        "../file-1",
        "proj_b/../file-1",
        "x/file-1",
        "proj_b/file-1/x",
        "s3://file-1",
    ],
)
def test_other_locations_are_no_files_of_projects(location: str) -> None:
    assert file_of(location, "proj_a") is None


def test_a_checkpoint_that_another_project_uses_stays_until_it_may_not(
    desk: TrainingDesk, permissions: CheckpointPermissions
) -> None:
    job_id = desk.training(hyperparameters=RequestedHyperparameters(n_epochs=7))
    used, files = f"{desk.get(job_id).output_model}:ckpt-step-3", []
    for epoch in range(1, 7):
        files.append(desk.result(job_id, 1, "adapter", b"adapter %d" % epoch))
        record = {"type": "checkpoint", "step": 3 * epoch, "file_id": files[-1]}
        desk.report(job_id, 1, step(3 * epoch, trained_tokens=60 * epoch), record)
        if epoch == 1:
            [given] = permissions.create(desk.caller, used, ["proj_b"])
    assert page(permissions, desk, used) == ["proj_b"]
    place = file_of(desk.registry.get(used, project_id="proj_b").model_file_location, "proj_b")
    assert place == (desk.project_id, files[0])
    assert sorted(desk.files.get_many(desk.project_id, files)) == sorted([files[0], *files[3:]])
    permissions.delete(desk.caller, used, given.id)
    last = desk.result(job_id, 1, "adapter", b"adapter 7")
    desk.report(job_id, 1, {"type": "checkpoint", "step": 21, "file_id": last})
    assert sorted(desk.files.get_many(desk.project_id, [*files, last])) == sorted([*files[4:], last])
