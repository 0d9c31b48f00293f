"""The index follows the rows: removals, attributes, and repairs of what disagrees."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, update

from llmariner.errors import RateLimited
from llmariner.platform.events.tables import events
from llmariner.platform.vectors import Chunk, Collection, Comparison
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.events import FILE_UPDATED
from llmariner.vector_stores.ingest import attributes_step, removal
from llmariner.vector_stores.ingest.attributes_step import apply_attributes, continue_attributes
from llmariner.vector_stores.ingest.rebuild import request_rebuild
from llmariner.vector_stores.ingest.removal import purge, remove_file, remove_store
from llmariner.vector_stores.ingest.repair import repair, repair_some
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.search import VectorStoreSearch
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files, vector_stores

from ..stored_files import Shelf
from . import token_path
from .ingestion import Ingestion
from .token_path import DIMENSION, vector_of

ANY = vector_of("Any.")


@pytest.fixture
def store_id(ingestion: Ingestion) -> str:
    """A store with two completed files."""
    made = ingestion.store("The red pump.", "The blue valve.")
    ingestion.run()
    assert sorted(ingestion.indexed(made).values()) == [1, 1]
    return made


def collection(ingestion: Ingestion) -> Collection:
    return Collection(ingestion.shelf.settings.embedding_model, DIMENSION)


def count(ingestion: Ingestion, table: Any) -> int:
    with ingestion.database.read() as session:
        return int(session.value(select(func.count()).select_from(table)))


def attribute_events(ingestion: Ingestion) -> int:
    with ingestion.database.read() as session:
        updated = select(func.count()).select_from(events).where(events.c.type == FILE_UPDATED)
        return int(session.value(updated))


def place(ingestion: Ingestion, store_id: str) -> dict[str, str]:
    return {"project_id": ingestion.shelf.project_id, "store_id": store_id}


def test_a_removed_file_leaves_the_index_at_once_and_the_rows_later(ingestion: Ingestion, store_id: str) -> None:
    shelf, row = ingestion.shelf, ingestion.row(store_id)
    shelf.files.remove(shelf.caller, store_id, row.file_id)
    for _ in range(2):
        remove_file(ingestion.database, ingestion.index, **place(ingestion, store_id), row_id=row.id)
    assert row.id not in ingestion.indexed(store_id)
    assert purge(ingestion.database, ingestion.index) == 0
    with ingestion.database.write() as session:
        gone = vector_store_files.c.id == row.id
        session.run(update(vector_store_files).where(gone).values(deleted_at=vector_store_files.c.deleted_at - 4000))
    assert (purge(ingestion.database, ingestion.index), purge(ingestion.database, ingestion.index)) == (1, 0)
    assert (count(ingestion, vector_store_files), count(ingestion, vector_store_chunks)) == (1, 1)


def test_a_deleted_store_leaves_nothing(ingestion: Ingestion, store_id: str) -> None:
    shelf = ingestion.shelf
    shelf.stores.delete(shelf.caller, store_id)
    for _ in range(2):
        remove_store(ingestion.database, ingestion.index, **place(ingestion, store_id))
    assert ingestion.indexed(store_id) == {}
    with ingestion.database.write() as session:
        session.run(update(vector_stores).values(deleted_at=vector_stores.c.deleted_at - 4000))
    assert purge(ingestion.database, ingestion.index) == 2
    assert [count(ingestion, table) for table in (vector_stores, vector_store_files, vector_store_chunks)] == [0, 0, 0]
    remove_store(ingestion.database, ingestion.index, **place(ingestion, store_id))


def test_projects_take_turns_when_their_removed_files_are_purged(ingestion: Ingestion, other_shelf: Shelf) -> None:
    shelf = ingestion.shelf
    for each, number in ((shelf, 3), (other_shelf, 1)):
        store_id = each.store(*[each.file() for _ in range(number)]).id
        each.stores.delete(each.caller, store_id)
    with ingestion.database.write() as session:
        session.run(update(vector_stores).values(deleted_at=vector_stores.c.deleted_at - 4000))
    assert purge(ingestion.database, ingestion.index, until=0.0) == 0
    first = removal._ended_files(ingestion.database, time.time(), 2)
    assert {row.project_id for row in first} == {shelf.project_id, other_shelf.project_id}
    assert purge(ingestion.database, ingestion.index, at_once=2) == 4
    assert [count(ingestion, table) for table in (vector_stores, vector_store_files)] == [0, 0]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_chunks_of_a_file_that_ended_otherwise_are_removed_and_its_row_stays(
    ingestion: Ingestion, store_id: str, status: str
) -> None:
    row = ingestion.row(store_id)
    with ingestion.database.write() as session:
        session.run(update(vector_store_files).where(vector_store_files.c.id == row.id).values(status=status))
    assert (purge(ingestion.database, ingestion.index), purge(ingestion.database, ingestion.index)) == (1, 0)
    assert row.id not in ingestion.indexed(store_id)
    left = ingestion.row(store_id)
    assert (left.id, left.status, left.chunk_count, count(ingestion, vector_store_chunks)) == (row.id, status, None, 1)


def test_new_attributes_of_a_completed_file_filter_its_chunks(ingestion: Ingestion, store_id: str) -> None:
    shelf, row = ingestion.shelf, ingestion.row(store_id)
    shelf.files.set_attributes(shelf.caller, store_id, row.file_id, {"year": 2026})
    for _ in range(2):
        apply_attributes(ingestion.database, ingestion.index, row.id)
    search = VectorStoreSearch(ingestion.database, ingestion.index, Embedder(ingestion.token_path.client))
    query = SearchQuery(("valve pump",), filters=Comparison("year", "eq", 2026))
    assert [each.file_id for each in search.search(shelf.caller, [store_id], query).results] == [row.file_id]
    apply_attributes(ingestion.database, ingestion.index, "vsf_gone")


def test_changes_of_attributes_have_one_event_until_the_index_has_them(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, row, before = ingestion.shelf, ingestion.row(store_id), attribute_events(ingestion)

    def change(file_id: str, *years: int) -> int:
        for year in years:
            shelf.files.set_attributes(shelf.caller, store_id, file_id, {"year": year})
        return attribute_events(ingestion) - before

    assert change(row.file_id, 1, 2, 3, 3) == 1
    monkeypatch.setattr(attributes_step, "MAX_CHANGED_FILES", 1)
    page, _ = shelf.files.page(shelf.project_id, store_id, Paging())
    other = next(each.file_id for each in page if each.id != row.id)
    with pytest.raises(RateLimited, match="wait") as caught:
        change(other, 1)
    assert caught.value.headers["retry-after"]
    assert change(row.file_id, 4) == 1
    apply_attributes(ingestion.database, ingestion.index, row.id)
    assert (ingestion.row(store_id).attributes_changed_at, change(row.file_id, 4)) == (None, 1)
    assert change(other, 1) == 2


def test_attributes_whose_event_was_lost_or_that_change_all_the_time_get_another_event(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, row, set_attributes = ingestion.shelf, ingestion.row(store_id), ingestion.index.set_attributes
    shelf.files.set_attributes(shelf.caller, store_id, row.file_id, {"year": 0})
    years = itertools.count(1)

    def changing(*args: Any) -> None:
        set_attributes(*args)
        shelf.files.set_attributes(shelf.caller, store_id, row.file_id, {"year": next(years)})

    before = attribute_events(ingestion)
    monkeypatch.setattr(ingestion.index, "set_attributes", changing)
    apply_attributes(ingestion.database, ingestion.index, row.id)
    assert (next(years), attribute_events(ingestion) - before) == (4, 1)
    assert continue_attributes(ingestion.database, until=math.inf) == 0
    for live in (True, False):
        with ingestion.database.write() as session:
            session.run(update(vector_store_files).values(attributes_changed_at=session.now() - 301))
        if not live:
            shelf.stores.delete(shelf.caller, store_id)
        assert continue_attributes(ingestion.database, until=math.inf) == 2 * live
    assert ingestion.row(store_id).attributes_changed_at is None


@pytest.mark.parametrize("when", ["begins and ends", "ends", "continues"])
def test_attributes_that_are_applied_during_a_rebuild_bring_no_old_vectors_back(
    when: str, ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index: Any = ingestion.index
    shelf, row, upsert = ingestion.shelf, ingestion.row(store_id), index._upsert
    written, applied, rebuilding = threading.Event(), threading.Event(), threading.Thread(target=ingestion.run)

    def write(place: Collection, rows: Sequence[Any]) -> None:
        """The consumer of the event has read chunks; before it writes them, the rebuild writes."""
        if threading.current_thread() is rebuilding:
            upsert(place, rows)
            if rows[0]["file_id"] == row.id:
                written.set()
                assert when != "continues" or applied.wait(30)
            return
        if when == "begins and ends":
            request_rebuild(ingestion.database, shelf.caller, store_id)
        if not rebuilding.ident:
            rebuilding.start()
            assert written.wait(30)
            if when != "continues":
                rebuilding.join()
        upsert(place, rows)

    shelf.files.set_attributes(shelf.caller, store_id, row.file_id, {"year": 2026})
    if when != "begins and ends":
        request_rebuild(ingestion.database, shelf.caller, store_id)
    monkeypatch.setattr(token_path, "vector_of", lambda text, size: [-each for each in vector_of(text, size)])
    with monkeypatch.context() as slow:
        slow.setattr(index, "_upsert", write)
        apply_attributes(ingestion.database, ingestion.index, row.id)
        applied.set()
        rebuilding.join()
    ingestion.run()
    new = [-each for each in ANY]
    where = (collection(ingestion), shelf.project_id, [store_id], new)
    hits = index.search_vectors(*where, limit=9, filters=Comparison("year", "eq", 2026))
    assert [(hit.file_id, hit.score > 0) for hit in hits] == [(row.id, True)]
    assert [hit.score > 0 for hit in index.search_vectors(*where, limit=9)] == [True, True]
    assert dict(shelf.get(store_id).contents.counts) == {"completed": 2}


def test_a_file_that_the_index_lost_is_indexed_again_by_itself(ingestion: Ingestion, store_id: str) -> None:
    before, row = ingestion.indexed(store_id), ingestion.row(store_id)
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 0
    ingestion.index.delete_file(collection(ingestion), ingestion.shelf.project_id, store_id, row.id)
    assert repair_some(ingestion.database, ingestion.index, until=math.inf) == 1
    assert ingestion.row(store_id).status == "in_progress"
    ingestion.run()
    assert ingestion.indexed(store_id) == before
    assert ingestion.token_path.embedded().count("The blue valve.") == 2


def test_stores_are_compared_in_turn_and_those_of_each_project_first(
    ingestion: Ingestion, store_id: str, other_shelf: Shelf
) -> None:
    def is_checked(each: str) -> bool:
        with ingestion.database.read() as session:
            return bool(session.value(select(vector_stores.c.checked_at).where(vector_stores.c.id == each)) > 9)

    for _ in range(20):
        ingestion.shelf.store()
    theirs = other_shelf.store().id
    ingestion.index.delete_store(collection(ingestion), ingestion.shelf.project_id, store_id)
    with ingestion.database.write() as session:
        session.run(update(vector_stores).where(vector_stores.c.id.in_([store_id, theirs])).values(checked_at=9))
    assert repair_some(ingestion.database, ingestion.index, until=math.inf) == 0
    assert (is_checked(theirs), is_checked(store_id)) == (True, False)
    assert repair_some(ingestion.database, ingestion.index, until=math.inf) > 0
    assert is_checked(store_id)


def test_chunks_without_rows_are_removed_from_the_index(ingestion: Ingestion, store_id: str) -> None:
    before = ingestion.indexed(store_id)
    forged = Chunk("vsf_gone-0", store_id, "vsf_gone", "pump", vector_of("pump"), {})
    ingestion.index.upsert(collection(ingestion), ingestion.shelf.project_id, [forged])
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 0
    assert ingestion.indexed(store_id) == before


def test_a_file_that_is_removed_while_its_attributes_are_applied_leaves_nothing(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, row, set_attributes = ingestion.shelf, ingestion.row(store_id), ingestion.index.set_attributes

    def late(*args: Any) -> None:
        chunks = ingestion.index.search_vectors(collection(ingestion), shelf.project_id, [store_id], ANY, limit=9)
        shelf.files.remove(shelf.caller, store_id, row.file_id)
        remove_file(ingestion.database, ingestion.index, **place(ingestion, store_id), row_id=row.id)
        back = [Chunk(each.id, store_id, row.id, each.text, ANY, {}) for each in chunks if each.file_id == row.id]
        ingestion.index.upsert(collection(ingestion), shelf.project_id, back)
        set_attributes(*args)

    monkeypatch.setattr(ingestion.index, "set_attributes", late)
    apply_attributes(ingestion.database, ingestion.index, row.id)
    assert row.id not in ingestion.indexed(store_id)


def test_a_file_that_was_completed_during_the_comparison_is_not_repaired(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk_counts = ingestion.index.chunk_counts
    answers: list[dict[str, int]] = [{}]
    monkeypatch.setattr(
        ingestion.index, "chunk_counts", lambda *args: answers.pop() if answers else chunk_counts(*args)
    )
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 0
    assert not answers


def test_a_file_of_which_the_index_has_too_many_chunks_is_repaired_once(ingestion: Ingestion, store_id: str) -> None:
    row = ingestion.row(store_id)
    more = Chunk(f"{row.id}-9", store_id, row.id, "Gone.", vector_of("Gone."), {})
    ingestion.index.upsert(collection(ingestion), ingestion.shelf.project_id, [more])
    repaired = []
    for _ in range(2):
        repaired.append(repair(ingestion.database, ingestion.index, **place(ingestion, store_id)))
        ingestion.run()
    assert (repaired, sorted(ingestion.indexed(store_id).values())) == ([1, 0], [1, 1])


def test_nothing_is_repaired_where_there_is_nothing(ingestion: Ingestion) -> None:
    assert repair_some(ingestion.database, ingestion.index, until=math.inf) == 0
    store_id = ingestion.shelf.store().id
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 0
    assert repair_some(ingestion.database, ingestion.index, until=math.inf) == 0
