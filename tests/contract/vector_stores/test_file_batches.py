"""Batches of files: created whole, counted, cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.store import FileBatch, NewStoreFile, VectorStore

from ..stored_files import Shelf

RunConcurrently = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def emitted(database: Database) -> list[str]:
    with database.read() as session:
        rows = session.rows(select(events.c.type).order_by(events.c.sequence))
    return [row.type.removeprefix("ai.llmariner.vector_store.").removesuffix(".v1") for row in rows]


def batch_of(shelf: Shelf, number: int) -> tuple[VectorStore, FileBatch, list[str]]:
    """A store with a batch of that many files."""
    store, files = shelf.store(), [shelf.file() for _ in range(number)]
    return store, shelf.batches.create(shelf.caller, store.id, [NewStoreFile(id_) for id_ in files]), files


def get(shelf: Shelf, batch: FileBatch) -> FileBatch:
    return shelf.batches.get(shelf.project_id, batch.vector_store_id, batch.id)


def test_a_batch_counts_its_own_files(shelf: Shelf, database: Database) -> None:
    store, batch, files = batch_of(shelf, 3)
    shelf.files.add(shelf.caller, store.id, NewStoreFile(shelf.file()))
    assert batch == get(shelf, batch)
    assert (batch.status, batch.contents.counts) == ("in_progress", {"in_progress": 3})
    assert emitted(database) == ["created", "file_batch.created", *["file.created"] * 4]
    shelf.ingest(store.id, files[0])
    shelf.ingest(store.id, files[1], status="failed")
    assert get(shelf, batch).contents.counts == {"in_progress": 1, "completed": 1, "failed": 1}
    shelf.files.remove(shelf.caller, store.id, files[2])
    assert (get(shelf, batch).status, get(shelf, batch).contents.total) == ("completed", 2)
    found, _ = shelf.files.page(shelf.project_id, store.id, Paging(order="asc"), batch_id=batch.id)
    assert [file.file_id for file in found] == files[:2]
    assert shelf.get(store.id).contents.total == 3


def test_a_batch_fails_when_all_of_its_files_do(shelf: Shelf) -> None:
    store, batch, files = batch_of(shelf, 2)
    for file_id in files:
        shelf.ingest(store.id, file_id, status="failed")
    assert get(shelf, batch).status == "failed"


def test_files_of_a_batch_have_their_own_options(shelf: Shelf) -> None:
    store, a, b = shelf.store(), shelf.file(), shelf.file()
    shelf.batches.create(shelf.caller, store.id, [NewStoreFile(a, {"n": 1}), NewStoreFile(b, {"n": 2})])
    found = [shelf.files.get(shelf.project_id, store.id, id_).attributes for id_ in (a, b)]
    assert found == [{"n": 1}, {"n": 2}]


def test_one_invalid_file_keeps_the_whole_batch_out(shelf: Shelf, database: Database) -> None:
    present = shelf.file()
    store, right = shelf.store(present), shelf.file()
    before = emitted(database)
    for wrong, error in (
        (NewStoreFile("file-unknown"), NotFound),
        (NewStoreFile(present), Conflict),
        (NewStoreFile(shelf.file(), {"k": "x" * 513}), InvalidRequest),
        (NewStoreFile(right), InvalidRequest),
    ):
        with pytest.raises(error):
            shelf.batches.create(shelf.caller, store.id, [NewStoreFile(right), wrong])
    with pytest.raises(InvalidRequest):
        shelf.batches.create(shelf.caller, store.id, [])
    assert emitted(database) == before
    assert shelf.get(store.id).contents.total == 1


def test_a_batch_has_a_maximum_of_files(shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest) as failed:
        shelf.batches.create(shelf.caller, shelf.store().id, [NewStoreFile(f"file-{n}") for n in range(2001)])
    assert failed.value.param == "file_ids"


def test_a_cancelled_batch_keeps_its_completed_files(shelf: Shelf, database: Database) -> None:
    store, batch, files = batch_of(shelf, 3)
    shelf.ingest(store.id, files[0])
    cancelled = shelf.batches.cancel(shelf.caller, store.id, batch.id)
    assert (cancelled.status, cancelled.contents.counts) == ("cancelled", {"completed": 1, "cancelled": 2})
    assert shelf.batches.cancel(shelf.caller, store.id, batch.id) == cancelled
    assert emitted(database)[-3:] == ["file.cancelled", "file.cancelled", "file_batch.cancelled"]
    again = shelf.batches.create(shelf.caller, store.id, [NewStoreFile(id_) for id_ in files[1:]])
    assert again.contents.counts == {"in_progress": 2}
    assert get(shelf, batch).contents.counts == {"completed": 1}


def test_a_batch_that_ended_can_not_be_cancelled(shelf: Shelf, database: Database) -> None:
    store, batch, files = batch_of(shelf, 1)
    shelf.ingest(store.id, files[0])
    before = emitted(database)
    with pytest.raises(Conflict) as failed:
        shelf.batches.cancel(shelf.caller, store.id, batch.id)
    assert failed.value.code == "batch_ended"
    assert (get(shelf, batch).status, emitted(database)) == ("completed", before)


def test_concurrent_cancellations_have_one_effect(
    shelf: Shelf, database: Database, run_concurrently: RunConcurrently
) -> None:
    store, batch, _ = batch_of(shelf, 2)
    results = run_concurrently([lambda: shelf.batches.cancel(shelf.caller, store.id, batch.id)] * 3)
    assert [each.status for each in results] == ["cancelled"] * 3
    assert emitted(database).count("file_batch.cancelled") == 1


def test_a_batch_belongs_to_one_store_of_one_project(shelf: Shelf, other_shelf: Shelf) -> None:
    store, batch, _ = batch_of(shelf, 1)
    other = shelf.store()
    calls: list[Callable[[], Any]] = [
        lambda: shelf.batches.get(shelf.project_id, other.id, batch.id),
        lambda: shelf.batches.cancel(shelf.caller, other.id, batch.id),
        lambda: shelf.batches.get(shelf.project_id, store.id, "vsfb_unknown"),
        lambda: other_shelf.batches.get(other_shelf.project_id, store.id, batch.id),
        lambda: other_shelf.batches.cancel(other_shelf.caller, store.id, batch.id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    assert get(shelf, batch).status == "in_progress"
