"""Vector stores of projects: created, listed, changed, deleted, expired."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.store import NewStoreFile
from llmariner.vector_stores.stores import record_activity, touch_store
from llmariner.vector_stores.tables import vector_store_files, vector_stores

from ..stored_files import Shelf

DAY = 86400


def emitted(database: Database) -> list[str]:
    with database.read() as session:
        rows = session.rows(select(events.c.type).order_by(events.c.sequence))
    return [row.type.removeprefix("ai.llmariner.vector_store.") for row in rows]


def page(shelf: Shelf, name: str | None = None, **paging: Any) -> tuple[list[str], bool]:
    found, more = shelf.stores.page(shelf.project_id, Paging(**paging), name)
    return [store.id for store in found], more


def test_a_store_has_what_its_creator_sent(shelf: Shelf) -> None:
    made = shelf.store(name="  manuals ", description="of pumps", metadata={"a": "1"}, expires_after_days=7)
    assert made == shelf.get(made.id)
    assert (made.name, made.description, made.metadata) == ("manuals", "of pumps", {"a": "1"})
    assert abs(made.created_at - time.time()) < 60
    assert (made.last_active_at, made.expires_at) == (made.created_at, made.created_at + 7 * DAY)
    assert (made.embedding_model, made.dimension, made.status) == ("all-minilm-l6-v2", None, "completed")
    assert (made.organization_id, made.project_id) == (shelf.caller.organization_id, shelf.project_id)


def test_a_store_keeps_its_model_when_the_default_changes(shelf: Shelf, database: Database, owner: KeyOwner) -> None:
    old, named = shelf.store(), shelf.store(embedding_model="own@proj_1")
    later = Shelf(database, owner, embedding_model="better")
    assert [later.get(id_).embedding_model for id_ in (old.id, named.id)] == ["all-minilm-l6-v2", "own@proj_1"]
    assert later.store().embedding_model == "better"
    later.stores.update(later.caller, old.id, {"name": "old"})
    assert later.get(old.id).embedding_model == "all-minilm-l6-v2"


def test_a_store_needs_nothing_and_does_not_expire(shelf: Shelf) -> None:
    made = shelf.store()
    assert (made.name, made.metadata, made.expires_at, made.contents.total) == ("", {}, None, 0)
    assert shelf.store().id != made.id


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"name": "x" * 257}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"description": "x" * 4097}, "description"),
        ({"description": "a\0b"}, "description"),
        ({"expires_after_days": 0}, "expires_after.days"),
        ({"expires_after_days": 366}, "expires_after.days"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
    ],
)
def test_an_invalid_value_creates_and_changes_nothing(
    values: dict[str, Any], param: str, shelf: Shelf, database: Database
) -> None:
    made = shelf.store(name="before")
    with pytest.raises(InvalidRequest) as failed:
        shelf.store(**values)
    assert failed.value.param == param
    with pytest.raises(InvalidRequest):
        shelf.stores.update(shelf.caller, made.id, values)
    assert shelf.get(made.id) == made
    assert page(shelf) == ([made.id], False)
    assert emitted(database) == ["created.v1"]


def test_metadata_of_the_largest_size_survives(shelf: Shelf) -> None:
    metadata = {f"{number:02}".ljust(64, "ü"): "\0\N{GRINNING FACE}".ljust(512, "é") for number in range(16)}
    assert shelf.get(shelf.store(metadata=metadata).id).metadata == metadata


def test_only_what_a_change_has_changes(shelf: Shelf) -> None:
    made = shelf.store(name="manuals", description="old", metadata={"a": "1"}, expires_after_days=7)
    changed = shelf.stores.update(shelf.caller, made.id, {"metadata": {"b": "2"}})
    assert (changed.name, changed.description, changed.metadata) == ("manuals", "old", {"b": "2"})
    assert changed.expires_after_days == 7
    changed = shelf.stores.update(shelf.caller, made.id, {"expires_after_days": None, "name": ""})
    assert (changed.name, changed.expires_at, changed.metadata) == ("", None, {"b": "2"})
    assert changed == shelf.get(made.id)


def test_a_list_is_paged_in_both_directions(shelf: Shelf) -> None:
    a, b, c, d, e = made = [shelf.store().id for _ in range(5)]
    assert page(shelf) == (made[::-1], False)
    assert page(shelf, limit=2) == ([e, d], True)
    assert page(shelf, limit=2, after=d) == ([c, b], True)
    assert page(shelf, limit=2, after=b) == ([a], False)
    assert page(shelf, limit=2, order="asc", after=b) == ([c, d], True)
    assert page(shelf, limit=2, before=a) == ([c, b], True)
    assert page(shelf, limit=2, before=d) == ([e], False)
    assert page(shelf, limit=2, order="asc", before=d) == ([b, c], True)
    assert page(shelf, after=e, before=b) == ([d, c], False)


def test_a_deleted_store_remains_a_cursor(shelf: Shelf) -> None:
    a, b, c = [shelf.store().id for _ in range(3)]
    shelf.stores.delete(shelf.caller, b)
    assert page(shelf, after=b) == ([a], False)
    assert page(shelf) == ([c, a], False)


def test_stores_are_found_by_name(shelf: Shelf, other_shelf: Shelf) -> None:
    a, b = shelf.store(name="x").id, shelf.store(name="x").id
    shelf.store(name="X")
    other_shelf.store(name="x")
    assert page(shelf, "x") == ([b, a], False)
    assert page(shelf, "nobody's") == ([], False)


def test_a_deleted_store_is_gone_and_its_files_stay(shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    made = shelf.store(file_id, name="x")
    shelf.stores.delete(shelf.caller, made.id)
    for call in (
        lambda: shelf.get(made.id),
        lambda: shelf.stores.delete(shelf.caller, made.id),
        lambda: shelf.stores.update(shelf.caller, made.id, {"name": "y"}),
        lambda: shelf.files.get(shelf.project_id, made.id, file_id),
        lambda: shelf.files.remove(shelf.caller, made.id, file_id),
    ):
        with pytest.raises(NotFound):
            call()
    assert emitted(database) == ["created.v1", "file.created.v1", "deleted.v1"]
    assert shelf.store(file_id).contents.total == 1
    with database.read() as session:
        [entry] = session.rows(select(audit_log).where(audit_log.c.type == "vector_store.deleted"))
        assert json.loads(entry.payload) == {"id": made.id, "name": "x"}
        row_id = session.value(select(vector_store_files.c.id).where(vector_store_files.c.vector_store_id == made.id))
        assert lock_live_file(session, row_id) is None


def archive(shelf: Shelf, days: float | None) -> None:
    """Archive the project so many days ago; None: restore it."""
    with shelf.database.write() as session:
        archived_at = None if days is None else session.now() - days * 86400
        session.run(update(projects).where(projects.c.id == shelf.project_id).values(archived_at=archived_at))


def test_stores_of_an_archived_project_are_deleted_after_some_days_unless_it_is_restored(
    shelf: Shelf, other_shelf: Shelf, database: Database
) -> None:
    kept, made = other_shelf.store(), [shelf.store(shelf.file()).id for _ in range(3)]

    archive(shelf, 20)
    assert shelf.stores.delete_orphans(archived_days=30) == 0
    archive(shelf, 60)
    assert shelf.stores.delete_orphans(archived_days=30, seconds=-1) == 1
    archive(shelf, None)
    assert shelf.stores.delete_orphans(archived_days=30) == 0
    assert page(shelf)[0] == [made[2], made[1]]
    archive(shelf, 60)
    assert shelf.stores.delete_orphans(archived_days=30) == 2
    assert (page(shelf)[0], other_shelf.get(kept.id).id) == ([], kept.id)
    with database.read() as session:
        entries = session.rows(select(audit_log).where(audit_log.c.type == "vector_store.deleted"))
    assert sorted(json.loads(entry.payload)["id"] for entry in entries) == made
    assert emitted(database).count("deleted.v1") == 3


@pytest.mark.parametrize("days", [None, 0])
def test_a_project_that_is_restored_meanwhile_keeps_its_stores(
    days: float | None, shelf: Shelf, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, transact = [shelf.store().id for _ in range(2)], database.transact

    def restored_before(work: Any) -> Any:
        archive(shelf, days)
        return transact(work)

    archive(shelf, 60)
    monkeypatch.setattr(database, "transact", restored_before)
    assert shelf.stores.delete_orphans(archived_days=30) == 0
    assert sorted(page(shelf)[0]) == sorted(made)


def test_a_store_of_another_project_is_unknown(shelf: Shelf, other_shelf: Shelf) -> None:
    theirs = other_shelf.store(other_shelf.file(), name="theirs")
    with pytest.raises(NotFound) as unknown:
        shelf.get("vs_unknown")
    for call in (
        lambda: shelf.get(theirs.id),
        lambda: shelf.stores.update(shelf.caller, theirs.id, {"name": "mine"}),
        lambda: shelf.stores.delete(shelf.caller, theirs.id),
    ):
        with pytest.raises(NotFound) as failed:
            call()
        assert failed.value.message.replace(theirs.id, "vs_unknown") == unknown.value.message
    assert page(shelf) == ([], False)
    assert other_shelf.get(theirs.id) == theirs


def test_names_are_unique_in_a_project_by_setting(database: Database, owner: KeyOwner, other_shelf: Shelf) -> None:
    shelf = Shelf(database, owner, unique_names=True)
    first = shelf.store(name="x")
    with pytest.raises(Conflict) as failed:
        shelf.store(name=" x ")
    assert failed.value.param == "name"
    with pytest.raises(InvalidRequest):
        shelf.store()
    second = shelf.store(name="y")
    with pytest.raises(Conflict):
        shelf.stores.update(shelf.caller, second.id, {"name": "x"})
    assert shelf.get(second.id).name == "y"
    assert other_shelf.store(name="x").name == "x"
    shelf.stores.delete(shelf.caller, first.id)
    assert shelf.stores.update(shelf.caller, second.id, {"name": "x"}).name == "x"


def test_a_project_has_a_maximum_number_of_stores(database: Database, owner: KeyOwner, other_shelf: Shelf) -> None:
    shelf = Shelf(database, owner, stores_per_project=2)
    first = shelf.store()
    shelf.store()
    with pytest.raises(Conflict) as failed:
        shelf.store()
    assert failed.value.code == "too_many_vector_stores"
    other_shelf.store()
    shelf.stores.delete(shelf.caller, first.id)
    shelf.store()


def test_a_sweep_without_time_left_leaves_stores_to_the_next(shelf: Shelf) -> None:
    for _ in range(3):
        shelf.pass_time(shelf.store(expires_after_days=1).id, DAY)
    assert shelf.stores.expire(seconds=0) == 1
    assert shelf.stores.expire() == 2


def test_a_store_expires_after_its_last_activity(shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    made, forever = shelf.store(file_id, expires_after_days=1), shelf.store()
    assert shelf.stores.expire() == 0
    shelf.pass_time(made.id, DAY)
    assert shelf.get(made.id).status == "expired"
    assert shelf.stores.expire() == 1
    assert shelf.stores.expire() == 0
    ended = shelf.get(made.id)
    assert (ended.status, ended.contents.total) == ("expired", 0)
    assert shelf.get(forever.id).status == "completed"
    assert emitted(database) == ["created.v1", "file.created.v1", "created.v1", "expired.v1"]


def test_an_expired_store_takes_no_files_and_stays_expired(shelf: Shelf) -> None:
    file_id = shelf.file()
    made = shelf.store(expires_after_days=1)
    shelf.pass_time(made.id, DAY)
    for call in (
        lambda: shelf.files.add(shelf.caller, made.id, NewStoreFile(file_id)),
        lambda: shelf.batches.create(shelf.caller, made.id, [NewStoreFile(file_id)]),
        lambda: shelf.stores.update(shelf.caller, made.id, {"expires_after_days": 9}),
    ):
        with pytest.raises(Conflict) as failed:
            call()
        assert failed.value.code == "vector_store_expired"
    assert shelf.stores.update(shelf.caller, made.id, {"name": "was here"}).status == "expired"
    record_activity(shelf.database, shelf.project_id, [made.id])
    assert shelf.get(made.id).status == "expired"
    shelf.stores.delete(shelf.caller, made.id)


def test_an_activity_moves_the_expiry(shelf: Shelf, other_shelf: Shelf) -> None:
    file_id = shelf.file()
    made = shelf.store(expires_after_days=2)
    acts = (
        lambda: record_activity(shelf.database, shelf.project_id, [made.id]),
        lambda: shelf.files.add(shelf.caller, made.id, NewStoreFile(file_id)),
        lambda: shelf.stores.update(shelf.caller, made.id, {"name": "x"}),
    )
    for act in acts:
        shelf.pass_time(made.id, DAY)
        before = shelf.get(made.id).last_active_at
        record_activity(shelf.database, other_shelf.project_id, [made.id])
        assert shelf.get(made.id).last_active_at == before
        act()
        now = shelf.get(made.id)
        assert abs(now.last_active_at - time.time()) < 60
        assert now.expires_at == now.last_active_at + 2 * DAY


def test_activities_within_a_minute_are_written_once(shelf: Shelf) -> None:
    made = shelf.store()
    shelf.pass_time(made.id, 30)
    before = shelf.get(made.id).last_active_at
    record_activity(shelf.database, shelf.project_id, [made.id])
    assert shelf.get(made.id).last_active_at == before


def test_counts_and_bytes_are_those_of_the_files(shelf: Shelf) -> None:
    files = [shelf.file() for _ in range(6)]
    made, empty = shelf.store(*files), shelf.store()
    assert (made.status, made.contents.counts) == ("in_progress", {"in_progress": 6})
    for file_id in files[:2]:
        shelf.ingest(made.id, file_id, usage_bytes=2**40)
    shelf.ingest(made.id, files[2], status="failed", usage_bytes=0)
    shelf.ingest(made.id, files[3], status="cancelled", usage_bytes=0)
    shelf.files.remove(shelf.caller, made.id, files[4])
    now = shelf.get(made.id)
    assert now.contents.counts == {"completed": 2, "failed": 1, "cancelled": 1, "in_progress": 1}
    assert (now.contents.total, now.contents.usage_bytes) == (5, 2**41)
    assert shelf.get(empty.id).contents.total == 0
    listed, _ = shelf.stores.page(shelf.project_id, Paging())
    assert listed == [empty, now]
    shelf.ingest(made.id, files[5])
    assert shelf.get(made.id).status == "completed"


def test_an_expiry_that_was_moved_meanwhile_does_not_end_the_store(shelf: Shelf) -> None:
    made = shelf.store(expires_after_days=1)
    shelf.pass_time(made.id, DAY)
    with shelf.database.write() as session:
        row = select(vector_stores).where(vector_stores.c.id == made.id)
        touch_store(session, session.rows(row)[0])
    assert shelf.stores.expire() == 0
