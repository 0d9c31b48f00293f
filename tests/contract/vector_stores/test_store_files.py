"""Files of vector stores: added, listed, given attributes, removed, read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.tenancy.principal import KeyOwner
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.store import FileStatus, NewStoreFile, StoreFile
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

from ..stored_files import Shelf

RunConcurrently = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def emitted(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """The events of files: the last word of the type, and the data."""
    with database.read() as session:
        rows = session.rows(select(events.c.type, events.c.data).order_by(events.c.sequence))
    kind = "ai.llmariner.vector_store.file."
    return [
        (row.type.removeprefix(kind).removesuffix(".v1"), json.loads(row.data))
        for row in rows
        if row.type.startswith(kind)
    ]


def add(shelf: Shelf, store_id: str, file_id: str, **values: Any) -> StoreFile:
    return shelf.files.add(shelf.caller, store_id, NewStoreFile(file_id, **values))


def listed(shelf: Shelf, store_id: str, *, status: FileStatus | None = None, **paging: Any) -> tuple[list[str], bool]:
    found, more = shelf.files.page(shelf.project_id, store_id, Paging(**paging), status=status)
    return [file.file_id for file in found], more


def test_an_added_file_is_in_progress_and_has_an_event(shelf: Shelf, database: Database) -> None:
    store, file_id = shelf.store(), shelf.file()
    strategy = ChunkingStrategy.static(200, 50)
    attributes = {"year": 2026, "size": 1.5, "draft": True, "team": "a"}
    made = add(shelf, store.id, file_id, attributes=attributes, chunking_strategy=strategy)
    assert made == shelf.files.get(shelf.project_id, store.id, file_id)
    assert (made.file_id, made.vector_store_id, made.status) == (file_id, store.id, "in_progress")
    assert (made.attributes, made.chunking_strategy) == (attributes, strategy)
    assert [type(value) for value in made.attributes.values()] == [int, float, bool, str]
    assert (made.usage_bytes, made.step, made.next_chunk, made.chunk_count) == (0, "parse", 0, None)
    [(kind, data)] = emitted(database)
    assert (kind, data["id"], data["file_id"], data["vector_store_id"]) == ("created", made.id, file_id, store.id)
    assert (data["project_id"], data["organization_id"]) == (shelf.project_id, shelf.caller.organization_id)
    with database.read() as session:
        row = lock_live_file(session, made.id)
        assert row is not None
        assert (row.user_id, row.key_id, row.embedding_model) == (shelf.caller.user_id, None, "all-minilm-l6-v2")


def test_unknown_and_other_projects_files_are_equally_unknown(
    shelf: Shelf, other_shelf: Shelf, database: Database
) -> None:
    store, theirs, gone = shelf.store(), other_shelf.file(), shelf.file(expires_at=1)
    messages = set()
    for file_id in (theirs, gone, "file-unknown"):
        for call in (
            lambda file_id=file_id: add(shelf, store.id, file_id),
            lambda file_id=file_id: shelf.store(file_id),
            lambda file_id=file_id: shelf.batches.create(shelf.caller, store.id, [NewStoreFile(file_id)]),
        ):
            with pytest.raises(NotFound) as failed:
                call()
            messages.add(failed.value.message.replace(file_id, "x"))
    assert len(messages) == 1
    assert emitted(database) == []
    assert len(shelf.stores.page(shelf.project_id, Paging())[0]) == 1


def test_a_file_of_another_projects_store_is_unknown(shelf: Shelf, other_shelf: Shelf) -> None:
    theirs = other_shelf.file()
    store = other_shelf.store(theirs)
    for call in (
        lambda: add(shelf, store.id, shelf.file()),
        lambda: shelf.files.get(shelf.project_id, store.id, theirs),
        lambda: shelf.files.set_attributes(shelf.caller, store.id, theirs, {"a": 1}),
        lambda: shelf.files.remove(shelf.caller, store.id, theirs),
        lambda: shelf.files.texts(shelf.project_id, store.id, theirs),
        lambda: listed(shelf, store.id),
        lambda: shelf.batches.create(shelf.caller, store.id, [NewStoreFile(shelf.file())]),
    ):
        with pytest.raises(NotFound) as failed:
            call()
        assert failed.value.param == "vector_store_id"
    assert other_shelf.get(store.id) == store


def test_a_file_is_in_a_store_once(shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    store = shelf.store(file_id)
    for status in ("in_progress", "completed"):
        shelf.ingest(store.id, file_id, status=status)
        with pytest.raises(Conflict) as failed:
            add(shelf, store.id, file_id)
        assert failed.value.code == "file_in_store"
    assert len(emitted(database)) == 1
    add(shelf, shelf.store().id, file_id)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_file_that_ended_is_started_again_by_its_addition(status: str, shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    store = shelf.store(file_id)
    first = shelf.files.get(shelf.project_id, store.id, file_id)
    shelf.ingest(store.id, file_id, status=status, error_code="server_error", error_message="x")
    second = add(shelf, store.id, file_id)
    assert second.id != first.id
    assert (second.status, second.error_code, second.next_chunk) == ("in_progress", None, 0)
    assert [(kind, data["id"]) for kind, data in emitted(database)] == [
        ("created", first.id),
        ("deleted", first.id),
        ("created", second.id),
    ]
    assert listed(shelf, store.id) == ([file_id], False)
    with database.read() as session:
        assert lock_live_file(session, first.id) is None


def test_a_file_that_is_given_twice_is_refused(shelf: Shelf) -> None:
    file_id = shelf.file()
    with pytest.raises(InvalidRequest) as failed:
        shelf.store(file_id, file_id)
    assert failed.value.param == "file_ids"
    assert shelf.stores.page(shelf.project_id, Paging()) == ([], False)


def test_a_store_has_a_maximum_number_of_files(database: Database, owner: KeyOwner) -> None:
    shelf = Shelf(database, owner, files_per_store=2)
    a, b, c = shelf.file(), shelf.file(), shelf.file()
    for call in (
        lambda: shelf.store(a, b, c),
        lambda: shelf.batches.create(shelf.caller, shelf.store(a).id, [NewStoreFile(b), NewStoreFile(c)]),
        lambda: add(shelf, shelf.store(a, b).id, c),
    ):
        with pytest.raises(Conflict) as failed:
            call()
        assert failed.value.code == "too_many_files"


@pytest.mark.parametrize(
    ("attributes", "param"),
    [
        ({str(n): n for n in range(17)}, "attributes"),
        ({"": 1}, "attributes"),
        ({"k" * 65: 1}, "attributes"),
        ({"k": "x" * 513}, "attributes.k"),
        ({"k": 2**53 + 1}, "attributes.k"),
        ({"k": -(10**400)}, "attributes.k"),
        ({"k": float("inf")}, "attributes.k"),
        ({"k": float("nan")}, "attributes.k"),
    ],
)
def test_invalid_attributes_change_nothing(attributes: dict[str, Any], param: str, shelf: Shelf) -> None:
    file_id, other = shelf.file(), shelf.file()
    store = shelf.store(file_id)
    calls: list[Callable[[], Any]] = [
        lambda: add(shelf, store.id, other, attributes=attributes),
        lambda: shelf.files.set_attributes(shelf.caller, store.id, file_id, attributes),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as failed:
            call()
        assert failed.value.param == param
    assert listed(shelf, store.id) == ([file_id], False)
    assert shelf.files.get(shelf.project_id, store.id, file_id).attributes == {}


def test_attributes_are_replaced_with_one_event_until_the_index_has_them(shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    store = shelf.store(file_id)
    largest = {f"{n:02}".ljust(64, "é"): "\0".ljust(512, "ü") for n in range(16)}
    for attributes in ({"a": 1, "b": 2}, {"b": 3}, largest, {}):
        changed = shelf.files.set_attributes(shelf.caller, store.id, file_id, attributes)
        assert changed.attributes == attributes
        assert changed == shelf.files.get(shelf.project_id, store.id, file_id)
    assert [kind for kind, _ in emitted(database)] == ["created", "updated"]


def test_files_are_listed_in_the_order_of_their_addition(shelf: Shelf) -> None:
    files = [shelf.file() for _ in range(5)]
    store = shelf.store()
    order = [files[index] for index in (3, 0, 4, 1, 2)]
    for file_id in order:
        add(shelf, store.id, file_id)
    a, b, c, d, e = order
    assert listed(shelf, store.id, order="asc") == (order, False)
    assert listed(shelf, store.id, limit=2) == ([e, d], True)
    assert listed(shelf, store.id, limit=2, after=d) == ([c, b], True)
    assert listed(shelf, store.id, limit=2, before=b) == ([d, c], True)
    shelf.files.remove(shelf.caller, store.id, d)
    assert listed(shelf, store.id, limit=2, after=d) == ([c, b], True)
    with pytest.raises(InvalidRequest) as failed:
        listed(shelf, store.id, before="file-unknown")
    assert failed.value.param == "before"
    with pytest.raises(InvalidRequest):
        listed(shelf, shelf.store().id, after=a)


def test_files_are_listed_by_status(shelf: Shelf) -> None:
    files = [shelf.file() for _ in range(4)]
    store = shelf.store(*files)
    for file_id, status in zip(files, FileStatus, strict=True):
        shelf.ingest(store.id, file_id, status=status)
    for file_id, status in zip(files, FileStatus, strict=True):
        assert listed(shelf, store.id, status=status) == ([file_id], False)


def test_a_removed_file_is_gone_from_its_store_alone(shelf: Shelf, database: Database) -> None:
    file_id = shelf.file()
    store, other = shelf.store(file_id), shelf.store(file_id)
    row = shelf.files.get(shelf.project_id, store.id, file_id)
    shelf.files.remove(shelf.caller, store.id, file_id)
    for call in (
        lambda: shelf.files.get(shelf.project_id, store.id, file_id),
        lambda: shelf.files.remove(shelf.caller, store.id, file_id),
        lambda: shelf.files.set_attributes(shelf.caller, store.id, file_id, {}),
    ):
        with pytest.raises(NotFound):
            call()
    assert shelf.get(store.id).contents.total == 0
    assert shelf.get(other.id).contents.total == 1
    assert [data["id"] for kind, data in emitted(database) if kind == "deleted"] == [row.id]
    with database.read() as session:
        assert lock_live_file(session, row.id) is None
        [entry] = session.rows(select(audit_log))
    assert (entry.type, json.loads(entry.payload)["id"]) == ("vector_store.file.deleted", file_id)
    assert add(shelf, store.id, file_id).id != row.id


def test_a_deleted_file_leaves_every_store(shelf: Shelf, database: Database) -> None:
    file_id, kept = shelf.file(), shelf.file()
    stores = [shelf.store(file_id, kept) for _ in range(3)]
    shelf.delete_file(file_id)
    assert [listed(shelf, store.id)[0] for store in stores] == [[kept]] * 3
    assert [data["file_id"] for kind, data in emitted(database) if kind == "deleted"] == [file_id] * 3


def test_a_file_that_is_deleted_while_it_is_added_is_in_no_store(
    shelf: Shelf, database: Database, run_concurrently: RunConcurrently
) -> None:
    for _ in range(5):
        file_id, stores = shelf.file(), [shelf.store() for _ in range(2)]
        additions = [partial(add, shelf, store.id, file_id) for store in stores]
        *added, deleted = run_concurrently([*additions, partial(shelf.delete_file, file_id)])
        assert deleted is None, deleted
        assert all(isinstance(each, StoreFile | NotFound) for each in added), added
        assert [listed(shelf, store.id)[0] for store in stores] == [[], []]


def test_concurrent_additions_of_a_file_add_it_once(shelf: Shelf, run_concurrently: RunConcurrently) -> None:
    store, file_id = shelf.store(), shelf.file()
    results = run_concurrently([lambda: add(shelf, store.id, file_id)] * 4)
    assert sorted(type(each).__name__ for each in results) == ["Conflict"] * 3 + ["StoreFile"]
    assert shelf.get(store.id).contents.total == 1


def test_a_file_that_is_added_while_its_store_is_deleted_is_not_live(
    shelf: Shelf, database: Database, run_concurrently: RunConcurrently
) -> None:
    for _ in range(5):
        store, file_id = shelf.store(), shelf.file()
        calls = (partial(add, shelf, store.id, file_id), partial(shelf.stores.delete, shelf.caller, store.id))
        added, deleted = run_concurrently(calls)
        assert deleted is None, deleted
        assert isinstance(added, StoreFile | NotFound), added
        with database.read() as session:
            rows = session.rows(select(vector_store_files.c.id).where(vector_store_files.c.vector_store_id == store.id))
            assert [lock_live_file(session, row.id) for row in rows] == [None] * len(rows)


def test_the_content_of_a_completed_file_is_its_chunks(shelf: Shelf, database: Database) -> None:
    file_id, other = shelf.file(), shelf.file()
    store = shelf.store(file_id, other)
    row = shelf.files.get(shelf.project_id, store.id, file_id)
    with database.write() as session:
        for index in range(450):
            session.add(
                vector_store_chunks,
                id=f"{row.id}-{index}",
                organization_id=shelf.caller.organization_id,
                project_id=shelf.project_id,
                vector_store_id=store.id,
                vector_store_file_id=row.id,
                chunk_index=index,
                text=f"text {index}",
                tokens=2,
                start_offset=0,
                end_offset=1,
                headings="[]",
            )
    with pytest.raises(Conflict) as failed:
        shelf.files.texts(shelf.project_id, store.id, file_id)
    assert failed.value.code == "file_not_completed"
    shelf.ingest(store.id, file_id)
    shelf.ingest(store.id, other)
    found = shelf.files.texts(shelf.project_id, store.id, file_id)
    assert list(found) == [f"text {index}" for index in range(450)]
    assert list(shelf.files.texts(shelf.project_id, store.id, other)) == []
