"""eventing/events.md lists every event with an example, and both match what the code emits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.gateway.control_plane.port import NO_AMOUNTS, LeaseReport, LeaseRequest
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.rules import Subject
from llmariner.models.aliases import ModelAliases
from llmariner.models.model import ActivationStatus, NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events import tables
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import StandaloneSettings
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.platform import StandalonePlatform
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.usage.ledger import Ledger

from ..batch_jobs.scripted_jobs import emit_batch_job_events
from ..clusters.steps import emit_cluster_events
from ..files.upload_steps import Desk
from ..fine_tuning.training_desk import emit_fine_tuning_events
from ..ledgers import closing_event
from ..notebooks.scripted_servers import emit_notebook_events
from ..quotas.steps import emit_quota_events
from ..showback.steps import emit_allocation_events
from ..stored_files import emit_vector_store_events
from ..team import Team, run_every_mutation

CHECKOUT = Path(__file__).resolve().parents[3]
TYPE = re.compile(r"ai\.llmariner\.(?:[a-z_]+\.){2,3}v\d+")
TICK = "ai.llmariner.platform.tick.v1"


def listed() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each type with its subject's template and its example."""
    text = (CHECKOUT / "eventing/events.md").read_text()
    sections = re.findall(r"^## (\S+)\n(.*?)```json\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    subjects = {type_: re.search(r"Subject `([^`]+)`", prose) for type_, prose, _ in sections}
    assert all(subjects.values()), subjects
    return {type_: (str(match[1]) if (match := subjects[type_]) else "", json.loads(ex)) for type_, _, ex in sections}


def written() -> set[str]:
    """Every type in the code, the triggers and the manifests."""
    folders = ("shared", "functions", "eventing", "manifests")
    files = [file for folder in folders for file in (CHECKOUT / folder).rglob("*") if file.suffix in (".py", ".yaml")]
    return {match for file in files for match in TYPE.findall(file.read_text())}


def kinds(value: dict[str, Any]) -> dict[str, type]:
    return {name: type(item) for name, item in value.items()}


def handle_file(database: Database, owner: KeyOwner, folder: Path) -> None:
    """Create a file and delete it."""
    store = Files(database, FolderObjects(folder), FileSettings())
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=0) as content:
        file = store.save(owner, NewFile("empty.txt", Purpose.USER_DATA, "text/plain"), content)
    store.delete(Team(database, owner).admin, file.id)


def move_alias(database: Database, owner: KeyOwner, registry: ModelRegistry) -> None:
    """Create an alias, move it, and delete it."""
    aliases, admin = ModelAliases(database), Team(database, owner).admin
    for name in ("org/first", "org/second"):
        registry.create(NewModel(name, SourceRepository.LOCAL, "/models/x"))
        registry.mark_loaded(name, folder="/models/x", size_bytes=1, task=Task.GENERATE)
    aliases.create(admin, "bot", "org/first", "")
    aliases.move(admin, "bot", "org/second", "better answers")
    aliases.delete(admin, "bot")


@pytest.fixture
def emitted(
    database: Database, keys: Keys, registry: ModelRegistry, owner: KeyOwner, tmp_path: Path
) -> dict[str, list[tuple[str, Any]]]:
    """Every operation once: type, subject and data of each event."""
    key, _ = keys.create(owner, NewKey("ci", frozenset()))
    keys.update(owner, key.id, name="new", excluded=None)
    keys.rotate(owner, key.id, overlap=0)
    keys.revoke(owner, key.id)
    for project in (None, owner.project_id):
        name = f"org/{'everybodys' if project is None else 'mine'}"
        registry.create(NewModel(name, SourceRepository.LOCAL, "/models/x", project_id=project))
        registry.mark_failed(name, "No config.json in /models/x.")
        registry.retry(name, project_id=project)
        registry.mark_loaded(name, folder="/models/x", size_bytes=1, task=Task.GENERATE)
        registry.configure(name, lambda config: config, project_id=None)
        registry.activate(name, ActivationStatus.INACTIVE, project_id=None)
        registry.delete(name, project_id=None)
    move_alias(database, owner, registry)
    run_every_mutation(database, owner)
    emit_vector_store_events(database, owner)
    emit_batch_job_events(database, owner)
    emit_notebook_events(database, keys, owner)
    emit_fine_tuning_events(database, owner, tmp_path / "training")
    emit_quota_events(database, owner)
    emit_cluster_events(database, owner)
    emit_allocation_events(database, owner)
    handle_file(database, owner, tmp_path)
    subject = Subject(owner.organization_id, "project", owner.project_id)
    budget = Budgets(database).put(None, subject, "month", NewBudget(0))
    Leases(database, {}).lease(LeaseRequest("req_1", 0.0, [LeaseReport(budget.id, NO_AMOUNTS, NO_AMOUNTS, NO_AMOUNTS)]))
    Ledger(database).record([closing_event("req_1", (9, 3, 0), uncounted=True)])
    Desk.open(database, tmp_path / "objects", owner).every_end()
    found: dict[str, list[tuple[str, Any]]] = {}
    with database.read() as session:
        for row in session.rows(select(tables.events)):
            found.setdefault(row.type, []).append((row.subject, json.loads(row.data)))
    return found


def test_the_listed_types_are_those_in_the_code() -> None:
    assert written() == set(listed())


def test_every_listed_type_except_the_tick_is_emitted(emitted: dict[str, list[tuple[str, Any]]]) -> None:
    assert set(emitted) == set(listed()) - {TICK}


def test_an_example_has_the_emitted_fields(emitted: dict[str, list[tuple[str, Any]]]) -> None:
    for type_, events in emitted.items():
        example = listed()[type_][1]
        for _, data in events:
            assert set(data) == set(example), type_
        assert kinds(example) in [kinds(data) for _, data in events], type_


def test_a_subject_has_the_listed_form(emitted: dict[str, list[tuple[str, Any]]]) -> None:
    for type_, events in emitted.items():
        template = listed()[type_][0]
        for subject, data in events:
            assert subject == template.replace("<id>", data["id"]), type_


def test_the_listed_audience_is_correct(emitted: dict[str, list[tuple[str, Any]]], database: Database) -> None:
    with database.read() as session:
        rows = session.rows(select(tables.events.c.project_id, tables.events.c.data))
    assert all(json.loads(row.data)["project_id"] == row.project_id for row in rows)


def test_the_standalone_tick_is_as_listed(tmp_path: Path) -> None:
    home = StandalonePlatform(StandaloneSettings(root=tmp_path), {}, EngineEnvironment(tmp_path, engine_lock()))
    upgrade(home.context.database)
    home._write_tick()
    with home.context.database.read() as session:
        [row] = session.rows(select(tables.events))
    home.context.database.close()
    assert (row.type, row.subject) == (TICK, listed()[TICK][0])
    assert json.loads(row.data) == listed()[TICK][1]


def test_the_cluster_tick_is_as_listed() -> None:
    documents = yaml.safe_load_all((CHECKOUT / "manifests/base/60-eventing/sweep.yaml").read_text())
    [source] = [document for document in documents if document and document["kind"] == "PingSource"]
    assert kinds(json.loads(source["spec"]["data"])) == kinds(listed()[TICK][1])
