"""A rebuild runs in the background, some files at a time, is continued after a kill, and counts to who asked."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, NotFound, RateLimited
from llmariner.tenancy.tables import organization_users, project_users
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.ingest import rebuild
from llmariner.vector_stores.ingest.claims import continue_later
from llmariner.vector_stores.ingest.rebuild import (
    REBUILDS_PER_PROJECT,
    continue_rebuilds,
    hand_on_rebuild,
    request_rebuild,
)
from llmariner.vector_stores.ingest.repair import repair
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.search import VectorStoreSearch
from llmariner.vector_stores.store import NewStoreFile
from llmariner.vector_stores.tables import vector_store_files, vector_stores

from ..stored_files import Shelf
from .ingestion import Ingestion
from .test_index_maintenance import collection, place
from .token_path import DIMENSION, TOKENS

TEXTS = ("The red pump.", "The blue valve.", "The green pipe.")


@pytest.fixture
def store_id(ingestion: Ingestion) -> str:
    """A store with three completed files."""
    made = ingestion.store(*TEXTS)
    ingestion.run()
    ingestion.token_path.requests.clear()
    return made


def ask(ingestion: Ingestion, store_id: str) -> None:
    request_rebuild(ingestion.database, ingestion.shelf.caller, store_id)


def lose_index(ingestion: Ingestion, store_id: str) -> None:
    ingestion.index.delete_store(collection(ingestion), ingestion.shelf.project_id, store_id)


def statuses(ingestion: Ingestion, store_id: str) -> dict[str, int]:
    return dict(ingestion.shelf.get(store_id).contents.counts)


def found(ingestion: Ingestion, store_id: str) -> list[str]:
    search = VectorStoreSearch(ingestion.database, ingestion.index, Embedder(ingestion.token_path.client))
    page = search.search(ingestion.shelf.caller, [store_id], SearchQuery(("pump valve pipe",)))
    return sorted(each.content for each in page.results)


def payers(ingestion: Ingestion) -> set[str]:
    issued = {headers["authorization"].removeprefix("Bearer ") for _, headers, _ in ingestion.token_path.requests}
    verified = [TOKENS.verify(token) for token in issued]
    return {each[0].user_id for each in verified if each is not None}


def test_a_rebuild_makes_the_index_of_the_rows_again(ingestion: Ingestion, store_id: str) -> None:
    before = ingestion.indexed(store_id)
    lose_index(ingestion, store_id)
    ask(ingestion, store_id)
    assert ingestion.shelf.get(store_id).status == "in_progress"
    assert statuses(ingestion, store_id) == {"completed": 3}  # nothing of it happens within the request
    ingestion.run(times=2)
    assert ingestion.indexed(store_id) == before
    assert (ingestion.shelf.get(store_id).status, statuses(ingestion, store_id)) == ("completed", {"completed": 3})
    assert sorted(ingestion.token_path.embedded()) == sorted(TEXTS)
    assert payers(ingestion) == {ingestion.shelf.caller.user_id}


def test_files_are_found_and_readable_while_their_index_is_made_again(ingestion: Ingestion, store_id: str) -> None:
    ask(ingestion, store_id)
    hand_on_rebuild(ingestion.database, store_id)
    assert statuses(ingestion, store_id) == {"in_progress": 3}
    assert found(ingestion, store_id) == sorted(TEXTS)
    row = ingestion.row(store_id)
    assert list(ingestion.shelf.files.texts(row.project_id, store_id, row.file_id)) == [TEXTS[-1]]


def test_few_files_are_in_progress_at_a_time(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FILES_IN_PROGRESS", 1)
    seen: list[int] = []
    ingestion.token_path.before = lambda _body: seen.append(statuses(ingestion, store_id)["in_progress"])
    ask(ingestion, store_id)
    ingestion.run()
    assert seen == [1, 1, 1]
    assert (ingestion.shelf.get(store_id).status, sorted(ingestion.indexed(store_id).values())) == (
        "completed",
        [1] * 3,
    )


def test_a_lost_event_of_a_rebuild_is_made_up_for_by_the_sweep(ingestion: Ingestion, store_id: str) -> None:
    ask(ingestion, store_id)
    ingestion.pending()  # lost
    assert continue_rebuilds(ingestion.database, until=math.inf) == 0
    with ingestion.database.write() as session:
        session.run(update(vector_stores).values(rebuild_requested_at=vector_stores.c.rebuild_requested_at - 100))
    assert continue_rebuilds(ingestion.database, until=-math.inf) == 0  # no time is left
    assert [continue_rebuilds(ingestion.database, until=math.inf) for _ in range(2)] == [3, 0]
    ingestion.run()
    assert sorted(ingestion.token_path.embedded()) == sorted(TEXTS)


def test_a_rebuild_that_waits_does_not_keep_the_sweep_from_others(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FILES_IN_PROGRESS", 1)
    monkeypatch.setattr(rebuild, "_STORES_AT_ONCE", 1)
    ask(ingestion, store_id)
    assert hand_on_rebuild(ingestion.database, store_id) == 1  # which waits; two others are left
    later = ingestion.store("text")
    with ingestion.database.write() as session:
        session.run(update(vector_store_files).values(status="completed", step="done", chunk_count=1))
        waits = vector_store_files.c.rebuild_at.is_not(None)
        session.run(update(vector_store_files).where(waits).values(status="in_progress", step="embed"))
    ask(ingestion, later)
    with ingestion.database.write() as session:
        session.run(update(vector_stores).values(rebuild_requested_at=vector_stores.c.rebuild_requested_at - 100))
        session.run(update(vector_store_files).values(rebuild_at=vector_store_files.c.rebuild_at - 100))
    assert sum(continue_rebuilds(ingestion.database, until=math.inf) for _ in range(40)) == 1
    assert ingestion.row(later).status == "in_progress"


def test_a_rebuild_that_is_killed_after_each_file_is_continued(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_index(ingestion, store_id)
    ask(ingestion, store_id)
    real = rebuild.index_again

    def killed(*args: Any, **values: Any) -> int:
        real(*args, **values)
        raise KeyboardInterrupt  # the transaction is rolled back

    with monkeypatch.context() as patched:
        patched.setattr(rebuild, "index_again", killed)
        with pytest.raises(KeyboardInterrupt):
            hand_on_rebuild(ingestion.database, store_id)
    assert found(ingestion, store_id) == []
    ingestion.run()
    assert (sorted(ingestion.indexed(store_id).values()), found(ingestion, store_id)) == ([1, 1, 1], sorted(TEXTS))


def test_a_rebuild_during_an_ingest_leaves_all_files_searchable(ingestion: Ingestion, store_id: str) -> None:
    shelf = ingestion.shelf
    shelf.files.add(shelf.caller, store_id, NewStoreFile(ingestion.file("The white tank.")))
    asked: list[int] = []

    def meanwhile(body: Any) -> None:
        if body["input"] == ["The white tank."] and not asked:
            asked.append(1)
            ask(ingestion, store_id)
            hand_on_rebuild(ingestion.database, store_id)

    ingestion.token_path.before = meanwhile
    ingestion.run()
    assert asked
    assert found(ingestion, store_id) == sorted([*TEXTS, "The white tank."])
    assert (ingestion.shelf.get(store_id).status, ingestion.shelf.get(store_id).dimension) == ("completed", DIMENSION)


def test_a_store_without_a_dimension_is_repaired(ingestion: Ingestion, store_id: str) -> None:
    with ingestion.database.write() as session:  # what a killed rebuild of the previous release leaves
        session.run(update(vector_stores).values(dimension=None))
    assert found(ingestion, store_id) == []
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 3
    ingestion.run()
    assert (found(ingestion, store_id), payers(ingestion) >= {ingestion.shelf.project_id}) == (sorted(TEXTS), True)


def test_a_model_with_another_dimension_is_used_after_a_rebuild(ingestion: Ingestion, store_id: str) -> None:
    shelf, old = ingestion.shelf, collection(ingestion)
    ingestion.token_path.dimension = 8
    lose_index(ingestion, store_id)
    assert repair(ingestion.database, ingestion.index, **place(ingestion, store_id)) == 3
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, "8 dimensions" in row.error_message) == ("in_progress", True)
    ask(ingestion, store_id)
    for _ in range(3):
        ingestion.run()
        continue_later(ingestion.database)
    assert (shelf.get(store_id).dimension, found(ingestion, store_id)) == (8, sorted(TEXTS))
    assert ingestion.index.chunk_counts(old, shelf.project_id, store_id) == {}
    assert shelf.get(store_id).status == "completed"


def test_a_new_dimension_during_a_rebuild_lets_all_files_begin_again(
    ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FILES_IN_PROGRESS", 1)
    shelf, old = ingestion.shelf, collection(ingestion)
    shelf.files.add(shelf.caller, store_id, NewStoreFile(ingestion.file("It runs well. " * 20_000)))
    for _ in range(2):  # parsed, and a first slice
        (event,) = ingestion.pending()
        ingestion.deliver(event)
    (rest,) = ingestion.pending()
    assert ingestion.row(store_id).next_chunk > 0
    ask(ingestion, store_id)
    for _ in range(2):  # one file has the old dimension, and two are left
        (event,) = ingestion.pending()
        ingestion.deliver(event)
    ingestion.token_path.dimension = DIMENSION * 2
    ingestion.run()
    ingestion.deliver(rest)
    for _ in range(3):
        ingestion.run()
        continue_later(ingestion.database)
    assert shelf.get(store_id).status == "completed"
    new, of_store = replace(old, dimension=DIMENSION * 2), (shelf.project_id, store_id)
    assert sum(ingestion.index.chunk_counts(new, *of_store).values()) == len(ingestion.chunks(store_id))
    assert ingestion.index.chunk_counts(old, *of_store) == {}


def test_two_consumers_of_one_rebuild_hand_each_file_on_once(ingestion: Ingestion, store_id: str) -> None:
    ask(ingestion, store_id)
    ingestion.pending()
    with ingestion.database.read() as session:
        store = session.first(select(vector_stores).where(vector_stores.c.id == store_id))
    assert store is not None
    row_id, at = ingestion.row(store_id).id, store.rebuild_requested_at
    handed_on = [
        ingestion.database.transact(partial(rebuild._rebuild_file, row_id=row_id, requested_at=at)) for _ in range(2)
    ]
    assert handed_on == [1, 0]


def test_the_rest_of_a_rebuild_counts_to_who_asked_last_and_to_the_project_once_they_left(
    ingestion: Ingestion, store_id: str
) -> None:
    ask(ingestion, store_id)
    hand_on_rebuild(ingestion.database, store_id)
    with ingestion.database.write() as session:
        session.run(project_users.delete())
        session.run(organization_users.delete())
    ingestion.run()
    assert statuses(ingestion, store_id) == {"completed": 3}
    assert payers(ingestion) == {ingestion.shelf.project_id}


def test_another_request_takes_a_waiting_rebuild_over(ingestion: Ingestion, store_id: str) -> None:
    ingestion.token_path.errors = [(429, "insufficient_quota", "3600")] * 3
    ask(ingestion, store_id)
    ingestion.run()
    assert statuses(ingestion, store_id) == {"in_progress": 3}
    assert continue_later(ingestion.database) == 0
    caller = replace(ingestion.shelf.caller, key_id="key_2")
    request_rebuild(ingestion.database, caller, store_id)
    ingestion.run()
    assert statuses(ingestion, store_id) == {"completed": 3}


def test_a_second_request_while_the_last_files_are_indexed_embeds_nothing_again(
    ingestion: Ingestion, store_id: str
) -> None:
    ask(ingestion, store_id)
    assert hand_on_rebuild(ingestion.database, store_id) == 3
    request_rebuild(ingestion.database, replace(ingestion.shelf.caller, key_id="key_2"), store_id)
    ingestion.run()
    assert len(ingestion.token_path.embedded()) == 3
    assert statuses(ingestion, store_id) == {"completed": 3}
    ask(ingestion, store_id)
    ingestion.run()
    assert len(ingestion.token_path.embedded()) == 6


def test_a_project_has_few_rebuilds_at_a_time_and_a_second_request_is_the_first(ingestion: Ingestion) -> None:
    ids = [ingestion.store("text") for _ in range(REBUILDS_PER_PROJECT + 1)]
    ingestion.run()
    for store_id in [*ids[:-1], *ids[:-1]]:
        ask(ingestion, store_id)
    with pytest.raises(RateLimited, match="being rebuilt") as caught:
        ask(ingestion, ids[-1])
    assert caught.value.headers["retry-after"]
    assert len([event for event in ingestion.pending() if "rebuild" in event.type]) == REBUILDS_PER_PROJECT
    for store_id in ids[:-1]:
        hand_on_rebuild(ingestion.database, store_id)
    with pytest.raises(RateLimited):  # their files wait for the indexer
        ask(ingestion, ids[-1])
    ask(ingestion, ids[0])
    ingestion.token_path.errors = [(429, "insufficient_quota", "3600")] * REBUILDS_PER_PROJECT
    ingestion.run()
    ask(ingestion, ids[-1])


def test_a_store_without_completed_files_has_nothing_to_rebuild(ingestion: Ingestion, store_id: str) -> None:
    for _ in range(REBUILDS_PER_PROJECT + 1):
        ask(ingestion, ingestion.shelf.store().id)
        ask(ingestion, ingestion.store("text"))  # its file is in progress
    assert not [event for event in ingestion.pending() if "rebuild" in event.type]
    ask(ingestion, store_id)
    assert len([event for event in ingestion.pending() if "rebuild" in event.type]) == 1


def test_nobody_elses_and_no_expired_store_is_rebuilt(ingestion: Ingestion, store_id: str, other_shelf: Shelf) -> None:
    for wrong in ("vs_none", other_shelf.store().id):
        with pytest.raises(NotFound):
            ask(ingestion, wrong)
    ask(ingestion, store_id)
    with ingestion.database.write() as session:
        session.run(update(vector_stores).values(expired_at=1))
    with pytest.raises(Conflict):
        ask(ingestion, store_id)
    assert hand_on_rebuild(ingestion.database, store_id) == 0
    with ingestion.database.read() as session:
        assert session.value(select(vector_stores.c.rebuild_requested_at).where(vector_stores.c.id == store_id)) is None


def test_cancelling_a_batch_leaves_a_file_that_was_completed(ingestion: Ingestion) -> None:
    shelf = ingestion.shelf
    store_id = shelf.store().id
    batch = shelf.batches.create(shelf.caller, store_id, [NewStoreFile(ingestion.file("text"))])
    ingestion.run()
    ask(ingestion, store_id)
    hand_on_rebuild(ingestion.database, store_id)
    with pytest.raises(Conflict):
        shelf.batches.cancel(shelf.caller, store_id, batch.id)
    with ingestion.database.read() as session:
        assert session.value(select(vector_store_files.c.status)) == "in_progress"
