"""Ingestion of files: parsed, chunked, embedded, indexed; each exactly once, whatever happens in between."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.platform.events.tables import events
from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.tenancy.tables import organization_users, projects
from llmariner.vector_stores.ingest import index_step
from llmariner.vector_stores.ingest.attributes_step import apply_attributes
from llmariner.vector_stores.ingest.claims import MAX_ATTEMPTS, continue_later
from llmariner.vector_stores.ingest.index_step import ChunkIndexer
from llmariner.vector_stores.ingest.parse_step import DocumentParser
from llmariner.vector_stores.store import NewStoreFile
from llmariner.vector_stores.tables import vector_store_files

from ..killed_process import Killed
from ..stored_files import Shelf
from .ingestion import Ingestion
from .token_path import DIMENSION

LONG = "\n\n".join(f"Paragraph {number} tells of pump {number * 7}. " + "It runs well. " * 60 for number in range(200))


def emitted(ingestion: Ingestion, store_id: str) -> list[str]:
    with ingestion.database.read() as session:
        rows = session.rows(select(events.c.type, events.c.data).order_by(events.c.sequence))
    prefix = "ai.llmariner.vector_store.file."
    return [row.type.removeprefix(prefix)[:-3] for row in rows if store_id in row.data and row.type.startswith(prefix)]


def test_a_file_is_completed_and_its_chunks_are_rows_and_in_the_index(ingestion: Ingestion) -> None:
    store_id = ingestion.store("# Pumps\n\nThe red pump moves water.\n")
    ingestion.run()
    row, (chunk,) = ingestion.row(store_id), ingestion.chunks(store_id)
    assert (row.status, row.step, row.error_code, row.retry_at) == ("completed", "done", None, None)
    assert (row.chunk_count, row.next_chunk) == (1, 1)
    assert (chunk.id, chunk.indexed, chunk.chunk_index) == (f"{row.id}-0", True, 0)
    assert "The red pump moves water." in chunk.text
    assert row.usage_bytes == len(chunk.text.encode()) + 4 * DIMENSION
    assert ingestion.indexed(store_id) == {row.id: 1}
    assert ingestion.shelf.get(store_id).dimension == DIMENSION
    assert emitted(ingestion, store_id) == ["created", "parsed", "completed"]


def test_a_long_file_is_indexed_in_slices_that_events_hand_on(ingestion: Ingestion) -> None:
    store_id = ingestion.store(LONG)
    ingestion.run()
    row, chunks = ingestion.row(store_id), ingestion.chunks(store_id)
    assert row.status == "completed"
    assert len(chunks) == row.chunk_count > 64
    assert all(chunk.indexed for chunk in chunks)
    assert ingestion.indexed(store_id) == {row.id: row.chunk_count}
    assert emitted(ingestion, store_id).count("parsed") >= 3
    assert sorted(ingestion.token_path.embedded()) == sorted(chunk.text for chunk in chunks)


def test_events_that_are_delivered_three_times_do_nothing_twice(ingestion: Ingestion) -> None:
    store_id = ingestion.store(LONG)
    ingestion.run(times=3)
    chunks = ingestion.chunks(store_id)
    assert sorted(ingestion.token_path.embedded()) == sorted(chunk.text for chunk in chunks)
    assert ingestion.indexed(store_id) == {ingestion.row(store_id).id: len(chunks)}
    assert emitted(ingestion, store_id).count("completed") == 1


@pytest.mark.parametrize("kills", [[1], [2], [3], [1, 2, 3, 4]])
def test_a_killed_slice_is_continued_by_the_sweep_and_loses_nothing(ingestion: Ingestion, kills: list[int]) -> None:
    store_id, calls = ingestion.store(LONG), 0

    class Dying(ChunkIndexer):
        def _upsert(self, *args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls in kills and calls % 2:
                raise Killed  # after the chunks were embedded
            super()._upsert(*args)
            if calls in kills:
                raise Killed  # after they were indexed

    ingestion.indexer = Dying(ingestion.database, ingestion.index, ingestion.indexer._embedder, slice_chunks=32)
    for _ in range(10):
        try:
            ingestion.run()
        except Killed:
            continue
        assert continue_later(ingestion.database) == 0
        if ingestion.row(store_id).status == "completed":
            break
        ingestion.make_due(store_id)
        assert continue_later(ingestion.database) == 1
    row = ingestion.row(store_id)
    assert (row.status, ingestion.indexed(store_id)) == ("completed", {row.id: row.chunk_count})


def test_a_claimed_file_is_left_alone_until_its_claim_ends(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    (event,) = ingestion.pending()
    seen: list[int] = []

    def meanwhile(_body: Any) -> None:
        ingestion.deliver(parsed)
        seen.append(continue_later(ingestion.database))

    ingestion.deliver(event)
    (parsed,) = ingestion.pending()
    ingestion.token_path.before = meanwhile
    ingestion.deliver(parsed)
    assert (seen, ingestion.token_path.embedded(), ingestion.row(store_id).status) == ([0], ["text"], "completed")


def test_a_lost_event_is_written_again(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.pending()  # lost
    assert continue_later(ingestion.database) == 0
    old = vector_store_files.c.created_at - 1000
    with ingestion.database.write() as session:
        session.run(update(vector_store_files).values(created_at=old))
    assert (continue_later(ingestion.database), continue_later(ingestion.database)) == (1, 0)
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"


def test_lost_events_are_written_again_soon_then_more_seldom_and_a_late_one_counts(ingestion: Ingestion) -> None:
    store_id, waits = ingestion.store("text"), []
    (late,) = ingestion.pending()
    with ingestion.database.write() as session:
        session.run(update(vector_store_files).values(created_at=vector_store_files.c.created_at - 61))
    for _ in range(6):
        assert continue_later(ingestion.database) == 1
        with ingestion.database.read() as session:
            waits.append(round((ingestion.row(store_id).retry_at - session.now()) / 60))
        ingestion.make_due(store_id)
    assert waits == [2, 4, 8, 15, 15, 15]
    assert continue_later(ingestion.database) == 1
    ingestion.deliver(late)
    assert (ingestion.row(store_id).step, ingestion.row(store_id).unclaimed_events) == ("embed", 0)
    ingestion.run()
    assert (ingestion.row(store_id).status, ingestion.token_path.embedded()) == ("completed", ["text"])


@pytest.mark.parametrize("code", ["insufficient_quota", "model_not_ready"])
def test_a_spent_budget_or_a_sleeping_model_pauses_the_file_and_says_why(ingestion: Ingestion, code: str) -> None:
    store_id = ingestion.store("text")
    for _ in range(MAX_ATTEMPTS + 2):  # a wait is no failed attempt
        ingestion.token_path.errors = [(429 if code == "insufficient_quota" else 503, code, "60")]
        ingestion.run()
        row = ingestion.row(store_id)
        assert (row.status, row.error_code, row.error_message) == ("in_progress", code, "No.")
        assert continue_later(ingestion.database) == 0
        ingestion.make_due(store_id)
        assert continue_later(ingestion.database) == 1
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code) == ("completed", None)


def test_a_file_without_a_budget_is_not_parsed_until_there_is_one(
    ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = ingestion.contents.read

    def counting_read(file: Any, *part: Any) -> Any:
        reads.append(file.id)
        return read(file, *part)

    monkeypatch.setattr(ingestion.contents, "read", counting_read)
    store_id = ingestion.store("text")
    ingestion.token_path.refuses_to_count = True
    for _ in range(3):
        ingestion.run()
        assert (ingestion.row(store_id).error_code, reads) == ("insufficient_quota", [])
        ingestion.make_due(store_id)
        continue_later(ingestion.database)
    ingestion.token_path.refuses_to_count = False
    ingestion.run()
    assert (ingestion.row(store_id).status, len(reads)) == ("completed", 1)


def test_a_file_whose_chunks_take_too_long_fails_and_leaves_none(ingestion: Ingestion) -> None:
    ingestion.parser = DocumentParser(
        ingestion.database, ingestion.contents, ingestion.token_path.client, chunk_seconds=-1
    )
    store_id = ingestion.store(LONG)
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code, ingestion.chunks(store_id)) == ("failed", "invalid_file", [])
    assert "chunks" in row.error_message


def test_projects_take_turns_when_the_sweep_continues_files(ingestion: Ingestion, other_shelf: Shelf) -> None:
    many = ingestion.shelf.store(*[ingestion.shelf.file() for _ in range(5)]).id
    one = other_shelf.store(other_shelf.file()).id
    ingestion.make_due(many)
    ingestion.make_due(one)
    with ingestion.database.write() as session:  # those of the other project waited longer
        older = vector_store_files.c.vector_store_id == many
        session.run(update(vector_store_files).where(older).values(retry_at=vector_store_files.c.retry_at - 100))
    ingestion.pending()
    assert continue_later(ingestion.database, limit=2) == 2
    assert {event.data["vector_store_id"] for event in ingestion.pending()} == {many, one}
    assert continue_later(ingestion.database, until=0.0) == 0
    assert continue_later(ingestion.database, until=math.inf, limit=2) == 4


def test_rounds_of_the_sweep_end_where_files_of_a_deleted_store_are_due(ingestion: Ingestion) -> None:
    shelf = ingestion.shelf
    store_id = shelf.store(*[shelf.file() for _ in range(3)]).id
    shelf.stores.delete(shelf.caller, store_id)
    ingestion.make_due(store_id)
    assert continue_later(ingestion.database, until=math.inf, limit=2) == 0


def test_a_rate_limit_that_frees_soon_is_waited_for_in_the_slice(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.token_path.errors = [(429, "rate_limit_exceeded", "1")]
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"


def test_an_engine_that_keeps_failing_fails_the_file_after_some_attempts(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.token_path.errors = [(502, None, "")] * (MAX_ATTEMPTS + 1)
    for _ in range(MAX_ATTEMPTS + 1):
        assert ingestion.row(store_id).status == "in_progress"
        ingestion.run()
        ingestion.make_due(store_id)
        continue_later(ingestion.database)
    row = ingestion.row(store_id)
    assert (row.status, row.error_code, row.error_message) == ("failed", "server_error", "No.")
    assert emitted(ingestion, store_id)[-1] == "failed"


def test_an_index_that_is_away_is_tried_again(ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch) -> None:
    store_id = ingestion.store("text")

    def away(*_args: Any) -> None:
        raise VectorIndexUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(ingestion.index, "upsert", away)
        ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code, row.attempts) == ("in_progress", "server_error", 1)
    ingestion.make_due(store_id)
    continue_later(ingestion.database)
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"


@pytest.mark.parametrize(("step", "method"), [(DocumentParser, "_store"), (ChunkIndexer, "_upsert")])
def test_after_an_unexpected_error_the_file_says_so_and_is_tried_again(
    ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch, step: type, method: str
) -> None:
    store_id = ingestion.store("text")

    def broken(*_args: Any) -> None:
        raise ImportError("a library is missing")

    with monkeypatch.context() as patched:
        patched.setattr(step, method, broken)
        with pytest.raises(ImportError):  # for the operator's log
            ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code, row.attempts) == ("in_progress", "server_error", 1)
    assert row.error_message.startswith("An unexpected error of the platform")
    assert row.retry_at < time.time() + 60, "the sweep waits until the claim ends"
    ingestion.make_due(store_id)
    continue_later(ingestion.database)
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"", "a.txt", "invalid_file"),
        (b"\x7fELF\0\1\2" * 99, "a.bin", "unsupported_file"),
        (b" \n ", "a.txt", "invalid_file"),
    ],
)
def test_a_file_that_cannot_be_read_fails_with_openais_code(
    ingestion: Ingestion, content: bytes, name: str, code: str
) -> None:
    store_id = ingestion.shelf.store(ingestion.file(content, name)).id
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code) == ("failed", code)
    assert row.error_message
    assert ingestion.chunks(store_id) == []


def test_a_refused_model_fails_the_file_at_once(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.token_path.errors = [(404, "model_not_found", "")]
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.status, row.error_code) == ("failed", "server_error")
    assert "No." in row.error_message


def test_a_user_without_rights_fails_the_file_before_anything_is_embedded(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    with ingestion.database.write() as session:
        session.run(organization_users.delete())
        session.run(update(projects).values(archived_at=1))
    ingestion.run()
    assert (ingestion.row(store_id).status, ingestion.token_path.requests) == ("failed", [])


def test_another_dimension_than_the_stores_fails_the_file(ingestion: Ingestion) -> None:
    store_id = ingestion.store("text")
    ingestion.run()
    ingestion.token_path.dimension = 8
    second = ingestion.file("other")
    ingestion.shelf.files.add(ingestion.shelf.caller, store_id, NewStoreFile(second))
    ingestion.run()
    row = ingestion.row(store_id)
    assert (row.file_id, row.status) == (second, "failed")
    assert "8 dimensions" in row.error_message


def test_a_text_beyond_the_models_input_is_embedded_by_its_beginning(ingestion: Ingestion) -> None:
    store_id = ingestion.store("one two three four five six seven eight nine")
    ingestion.token_path.max_words = 3
    ingestion.run()
    assert ingestion.row(store_id).status == "completed"
    (chunk,) = ingestion.chunks(store_id)
    assert chunk.text.endswith("nine")


def test_an_engine_that_refuses_slowly_does_not_keep_the_slice_beyond_its_claim(
    ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_step, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(index_step, "CLAIM_SECONDS", 0.5)
    store_id = ingestion.store("word " * 30_000)
    ingestion.token_path.errors = [(400, "context_length_exceeded", "")] * 1000
    ingestion.token_path.before = lambda _body: time.sleep(0.1)
    ingestion.run()
    assert len(ingestion.token_path.embedded()) < 100
    row = ingestion.row(store_id)
    assert (row.status, row.attempts) == ("in_progress", 1)


def test_chunks_of_the_automatic_strategy_fit_the_model_in_its_own_tokens(ingestion: Ingestion) -> None:
    ingestion.token_path.max_model_len = 108
    store_id = ingestion.store(LONG)
    ingestion.run()
    counts = [len(chunk.text.split()) for chunk in ingestion.chunks(store_id)]
    assert max(counts) <= 100
    assert [chunk.tokens for chunk in ingestion.chunks(store_id)] == counts


@pytest.mark.parametrize("what", ["file", "store", "cancelled"])
def test_a_file_that_is_removed_while_it_is_indexed_leaves_nothing_in_the_index(
    ingestion: Ingestion, what: str
) -> None:
    shelf, store_id = ingestion.shelf, ingestion.store("text")

    def meanwhile(_body: Any) -> None:
        row = ingestion.row(store_id)
        if what == "file":
            shelf.files.remove(shelf.caller, store_id, row.file_id)
        elif what == "store":
            shelf.stores.delete(shelf.caller, store_id)
        else:
            with ingestion.database.write() as session:
                session.run(update(vector_store_files).values(status="cancelled"))

    ingestion.token_path.before = meanwhile
    ingestion.run()
    assert ingestion.indexed(store_id) == {}
    assert "completed" not in emitted(ingestion, store_id)


def test_attributes_that_change_while_a_file_is_indexed_are_those_of_the_index(
    ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, store_id = ingestion.shelf, ingestion.store("text")
    upserted: list[Any] = []
    upsert = ingestion.index.upsert

    def changing(collection: Any, tenant: str, chunks: Any) -> None:
        upserted.append(dict(chunks[0].attributes))
        upsert(collection, tenant, chunks)
        if len(upserted) == 1:
            shelf.files.set_attributes(shelf.caller, store_id, ingestion.row(store_id).file_id, {"year": 2026})

    monkeypatch.setattr(ingestion.index, "upsert", changing)
    ingestion.run()
    assert upserted == [{}, {"year": 2026}]
    assert json.loads(ingestion.row(store_id).attributes) == {"year": 2026}


def test_attributes_that_change_all_the_time_do_not_keep_the_indexer(
    ingestion: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, store_id = ingestion.shelf, ingestion.store("text")
    upserted: list[Any] = []
    upsert = ingestion.index.upsert

    def changing(collection: Any, tenant: str, chunks: Any) -> None:
        upserted.append(dict(chunks[0].attributes))
        upsert(collection, tenant, chunks)
        assert len(upserted) < 20
        year = {"year": len(upserted)}
        shelf.files.set_attributes(shelf.caller, store_id, ingestion.row(store_id).file_id, year)
        apply_attributes(ingestion.database, ingestion.index, ingestion.row(store_id).id)

    monkeypatch.setattr(ingestion.index, "upsert", changing)
    ingestion.run()
    row = ingestion.row(store_id)
    assert (upserted, row.status) == ([{}, {"year": 1}, {"year": 2}], "completed")
    # The last change is applied by an event, though the index had it before.
    assert row.attributes_changed_at is not None
    assert emitted(ingestion, store_id)[-2:] == ["updated", "completed"]
