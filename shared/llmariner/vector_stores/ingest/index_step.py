"""The second step of ingestion: embeds the chunks of a file and puts them into the index, a bounded number at a time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import PermissionDenied
from llmariner.platform.database import Database
from llmariner.platform.vectors import Chunk, Collection, VectorIndex, VectorIndexUnavailable
from llmariner.tenancy.background_work import Originator, authorize
from llmariner.vector_stores.embedder import Embedder, batches
from llmariner.vector_stores.events import FILE_PARSED
from llmariner.vector_stores.inference import InferenceFailed, InferencePaused, InferenceRefused
from llmariner.vector_stores.ingest.attributes_step import ROUNDS, ask_for_attributes
from llmariner.vector_stores.ingest.claims import (
    CLAIM_SECONDS,
    MAX_ATTEMPTS,
    Claim,
    ClaimLost,
    acquire,
    hand_on,
    working_on,
)
from llmariner.vector_stores.ingest.outcomes import complete, fail
from llmariner.vector_stores.ingest.rebuild import change_dimension, hand_on_rebuild
from llmariner.vector_stores.ingest.removal import remove_unless_live
from llmariner.vector_stores.tables import vector_store_chunks, vector_stores

__all__ = ["ChunkIndexer"]

_SLICE_SECONDS = 40.0
_SLICE_CHUNKS = 2048
_READ_AT_ONCE = 128
_RETRY_SECONDS = 30.0
# Until a file is tried again that can't be indexed and must not fail.
_LONG_WAIT_SECONDS = 900.0
# A limit that frees within that time is waited for in the slice.
_SHORT_WAIT_SECONDS = 15.0
_MIN_WAIT_SECONDS = 5.0
_HALVINGS = 8

_chunks = vector_store_chunks.c


class _WrongDimension(Exception):
    """The model returned vectors of another dimension than those that the vector store has."""


class ChunkIndexer:
    """Embeds and indexes chunks. Blocks; safe in any thread."""

    def __init__(
        self, database: Database, index: VectorIndex, embedder: Embedder, *, slice_chunks: int = _SLICE_CHUNKS
    ) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._slice_chunks = slice_chunks

    def run(self, row_id: str, event_retry_at: float | None) -> None:
        """Index some chunks of a file and hand it on, or complete it. Idempotent. Unexpected errors are raised."""
        claim = acquire(self._database, row_id, "embed", event_retry_at)
        if claim is None:
            return
        try:
            with working_on(self._database, claim):
                self._index_slice(claim)
        except ClaimLost:
            # This process may have put chunks into the index after a consumer removed the file's.
            with contextlib.suppress(VectorIndexUnavailable):  # then the sweep removes them
                remove_unless_live(self._database, self._index, row_id)

    def _index_slice(self, claim: Claim) -> None:
        if claim.row.attempts > MAX_ATTEMPTS and not claim.was_completed:
            message = claim.row.error_message or f"The file could not be embedded in {MAX_ATTEMPTS} attempts."
            fail(self._database, claim, "server_error", message)
            return
        try:
            self._work(claim, self._authorize(claim))
        except PermissionDenied as error:
            self._give_up(claim, error.message)
        except InferencePaused as pause:
            seconds = max(pause.retry_after, _RETRY_SECONDS)
            claim.pause(self._database, code=pause.code, message=pause.message, seconds=seconds)
        except InferenceRefused as refusal:
            message = f"The file could not be embedded: {refusal.message}"
            # A gateway may not know a key or a right yet, or have an old one in its cache.
            if refusal.status in (401, 403):
                claim.retry(self._database, message)
            else:
                self._give_up(claim, message)
        except _WrongDimension as error:
            self._give_up(claim, str(error))
        except (InferenceFailed, VectorIndexUnavailable) as error:
            unavailable = isinstance(error, VectorIndexUnavailable)
            claim.retry(self._database, "The index of vector stores does not answer." if unavailable else str(error))

    def _authorize(self, claim: Claim) -> Originator:
        """Who pays for the embeddings. PermissionDenied. What was completed is the project's, also once they have left."""
        try:
            authorize(self._database, claim.originator)
            return claim.originator
        except PermissionDenied:
            if not claim.was_completed:
                raise
        project = Originator.of_project(claim.row.project_id, claim.row.organization_id)
        authorize(self._database, project)
        return project

    def _give_up(self, claim: Claim, message: str) -> None:
        """Fail the file. One that was completed waits for the cause to pass: its rows are complete, and it is searchable."""
        if claim.was_completed:
            claim.pause(self._database, code="server_error", message=message[:1000], seconds=_LONG_WAIT_SECONDS)
        else:
            fail(self._database, claim, "server_error", message)

    def _work(self, claim: Claim, originator: Originator) -> None:
        deadline, done, dimension = time.monotonic() + _SLICE_SECONDS, 0, claim.row.dimension
        position = claim.row.next_chunk
        while rows := self._next_chunks(claim, position):
            vectors: list[Sequence[float]] = []
            is_over = False
            try:
                for part in batches([len(row.text.encode()) for row in rows]):
                    some = self._embed(claim, originator, [row.text for row in rows[part]], deadline)
                    if vectors and len(some[0]) != len(vectors[0]):
                        break  # the model has been replaced: the next round sees it
                    vectors += some
                    is_full = done + len(vectors) >= self._slice_chunks
                    if is_over := is_full or time.monotonic() + _MIN_WAIT_SECONDS >= deadline:
                        break
            finally:
                # One request for many chunks. They are paid for, also if the embedding of the next ones fails.
                if vectors:
                    dimension = self._set_dimension(claim, len(vectors[0]))
                    self._upsert(claim, dimension, rows[: len(vectors)], vectors)
            position, done = rows[len(vectors) - 1].chunk_index + 1, done + len(vectors)
            if position < claim.row.chunk_count and is_over:
                with self._database.write() as session:
                    hand_on(session, claim.check(session), FILE_PARSED)
                return
        complete(self._database, claim, dimension=dimension or 0)
        if claim.row.rebuild_requested_at is not None:
            hand_on_rebuild(self._database, claim.row.vector_store_id)

    def _next_chunks(self, claim: Claim, position: int) -> Sequence[Row[Any]]:
        of_file = (_chunks.vector_store_file_id == claim.row.id) & (_chunks.chunk_index >= position)
        query = select(_chunks.id, _chunks.chunk_index, _chunks.text).where(of_file)
        with self._database.read() as session:
            return session.rows(query.order_by(_chunks.chunk_index).limit(_READ_AT_ONCE))

    def _embed(
        self, claim: Claim, originator: Originator, texts: Sequence[str], deadline: float
    ) -> list[Sequence[float]]:
        """The vectors of texts. A text beyond the length of the model's input is embedded by its beginning."""
        while True:
            _check_time(deadline)
            remaining = max(deadline - time.monotonic(), _MIN_WAIT_SECONDS)
            try:
                return self._embedder.embed(claim.row.embedding_model, originator, texts, wait_seconds=remaining)
            except InferencePaused as pause:
                short = pause.retry_after <= _SHORT_WAIT_SECONDS and pause.code == "rate_limit_exceeded"
                if not short or time.monotonic() + pause.retry_after >= deadline:
                    raise
                time.sleep(pause.retry_after)
            except InferenceRefused as refusal:
                if refusal.status != 400:
                    raise
                if len(texts) == 1:
                    return [self._embed_beginning(claim, originator, texts[0], deadline)]
                return [vector for text in texts for vector in self._embed(claim, originator, [text], deadline)]

    def _embed_beginning(self, claim: Claim, originator: Originator, text: str, deadline: float) -> Sequence[float]:
        for halving in range(1, _HALVINGS + 1):
            _check_time(deadline)
            beginning = text[: max(1, len(text) >> halving)]
            try:
                return self._embedder.embed(
                    claim.row.embedding_model, originator, [beginning], wait_seconds=_MIN_WAIT_SECONDS
                )[0]
            except InferenceRefused as refusal:
                if refusal.status != 400 or halving == _HALVINGS or len(beginning) == 1:
                    raise
        raise AssertionError("unreachable")

    def _set_dimension(self, claim: Claim, dimension: int) -> int:
        """Note the dimension of the store's vectors with its first one. _WrongDimension."""
        if claim.row.dimension == dimension:
            return dimension
        store = vector_stores.c.id == claim.row.vector_store_id
        with self._database.write() as session:
            claim.check(session)
            unset = store & vector_stores.c.dimension.is_(None)
            session.run(update(vector_stores).where(unset).values(dimension=dimension))
            stored = session.value(select(vector_stores.c.dimension).where(store))
        if stored == dimension:
            return dimension
        if claim.was_completed and claim.row.rebuild_at is not None:
            # First: what is left of the old dimension is of no use to anybody, and later nobody would find it.
            old = Collection(claim.row.embedding_model, stored)
            self._index.delete_store(old, claim.row.project_id, claim.row.vector_store_id)
            change_dimension(self._database, claim, stored, dimension)
            raise ClaimLost
        raise _WrongDimension(
            f"The model '{claim.row.embedding_model}' returns vectors of {dimension} dimensions now, and the vector "
            f"store has {stored}. Rebuild the vector store's index, or create a new vector store."
        )

    def _upsert(
        self, claim: Claim, dimension: int, rows: Sequence[Row[Any]], vectors: Sequence[Sequence[float]]
    ) -> None:
        """Put chunks into the index, then mark their rows. Again if the file's attributes change meanwhile, ROUNDS times."""
        collection = Collection(claim.row.embedding_model, dimension)
        with self._database.write() as session:
            attributes = claim.check(session).attributes
        self._index.ensure(collection)
        for rounds_left in reversed(range(ROUNDS)):
            place = {"vector_store_id": claim.row.vector_store_id, "file_id": claim.row.id}
            chunks = [
                Chunk(id=row.id, text=row.text, vector=vector, attributes=json.loads(attributes), **place)
                for row, vector in zip(rows, vectors, strict=True)
            ]
            self._index.upsert(collection, claim.row.project_id, chunks)
            with self._database.write() as session:
                current = claim.check(session)
                is_current = current.attributes == attributes
                if is_current or not rounds_left:
                    if not is_current:
                        ask_for_attributes(session, current)
                    session.run(
                        update(vector_store_chunks).where(_chunks.id.in_([row.id for row in rows])).values(indexed=True)
                    )
                    progress = {"next_chunk": rows[-1].chunk_index + 1, "attempts": 0}
                    claim.store(session, **progress, error_code=None, error_message=None)
                    return
            attributes = current.attributes


def _check_time(deadline: float) -> None:
    """ClaimLost long after the deadline of a slice: an engine that refuses slowly must not keep a thread for hours."""
    if time.monotonic() > deadline + CLAIM_SECONDS - _SLICE_SECONDS:
        raise ClaimLost
