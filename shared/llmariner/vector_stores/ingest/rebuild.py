"""Rebuilds the index from the rows of chunks: on request, and where the index has other chunks than the rows say."""

from __future__ import annotations

import random
from collections.abc import Mapping

from sqlalchemy import func, select, update

from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.vectors import Collection, VectorIndex
from llmariner.vector_stores.events import FILE_PARSED
from llmariner.vector_stores.ingest.claims import hand_on
from llmariner.vector_stores.ingest.removal import collection_of
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files, vector_stores

__all__ = ["rebuild", "repair", "repair_some"]

_STORES_AT_ONCE = 10

_files, _stores = vector_store_files.c, vector_stores.c


def rebuild(database: Database, index: VectorIndex, *, project_id: str, store_id: str) -> int:
    """Embed and index all completed files of a vector store again; returns their number. VectorIndexUnavailable.

    The files are in progress until then. Idempotent. The embedding model may have another dimension than before.
    """
    with database.read() as session:
        collection, ids = collection_of(session, store_id), _completed(session, store_id)
    if collection is not None:
        index.delete_store(collection, project_id, store_id)
    with database.write() as session:
        session.run(update(vector_stores).where(_stores.id == store_id).values(dimension=None))
    return sum(_index_again(database, row_id) for row_id in ids)


def repair(database: Database, index: VectorIndex, *, project_id: str, store_id: str) -> int:
    """Index the files of a vector store again of which the index has another number of chunks; returns their number.

    Chunks of files that are not in the store are removed from the index. VectorIndexUnavailable.
    """
    with database.read() as session:
        collection = collection_of(session, store_id)
    if collection is None:
        return 0
    # Twice, since files are completed and removed meanwhile.
    wrong = _disagreements(database, index, collection, project_id, store_id)
    if wrong:
        still = _disagreements(database, index, collection, project_id, store_id)
        wrong = {row_id: known for row_id, known in wrong.items() if row_id in still}
    for row_id, known in wrong.items():
        if not known:
            index.delete_file(collection, project_id, store_id, row_id)
    return sum(_index_again(database, row_id) for row_id, known in wrong.items() if known)


def repair_some(database: Database, index: VectorIndex) -> int:
    """`repair` some vector stores, other ones each time; returns the number of files. For the sweep."""
    live = _stores.deleted_at.is_(None) & _stores.dimension.is_not(None)
    with database.read() as session:
        first = session.value(select(func.min(_stores.created_at)).where(live))
        if first is None:
            return 0
        since = random.randint(first, session.value(select(func.max(_stores.created_at)).where(live)))
        query = select(_stores.id, _stores.project_id).where(live, _stores.created_at >= since)
        rows = session.rows(query.order_by(_stores.created_at, _stores.id).limit(_STORES_AT_ONCE))
    return sum(repair(database, index, project_id=row.project_id, store_id=row.id) for row in rows)


def _disagreements(
    database: Database, index: VectorIndex, collection: Collection, project_id: str, store_id: str
) -> Mapping[str, bool]:
    """The ids of files of which rows and index have different numbers of chunks, and whether each is completed."""
    with database.read() as session:
        live = (_files.vector_store_id == store_id) & _files.deleted_at.is_(None)
        rows = session.rows(select(_files.id, _files.status, _files.chunk_count).where(live))
    counts = index.chunk_counts(collection, project_id, store_id)
    expected = {row.id: row.chunk_count for row in rows if row.status == "completed"}
    wrong = {row_id: True for row_id, count in expected.items() if counts.get(row_id, 0) != count}
    known = {row.id for row in rows if row.status in ("completed", "in_progress")}
    return {**wrong, **{row_id: False for row_id in counts if row_id not in known}}


def _completed(session: ReadSession, store_id: str) -> list[str]:
    completed = (_files.vector_store_id == store_id) & _files.deleted_at.is_(None) & (_files.status == "completed")
    return [row.id for row in session.rows(select(_files.id).where(completed).order_by(_files.id))]


def _index_again(database: Database, row_id: str) -> int:
    """Let a completed file be embedded and indexed again; 1 if it is completed."""

    def reset(session: WriteSession) -> int:
        row = lock_live_file(session, row_id)
        if row is None or row.status != "completed":
            return 0
        of_file = vector_store_chunks.c.vector_store_file_id == row_id
        session.run(update(vector_store_chunks).where(of_file).values(indexed=False))
        hand_on(session, row, FILE_PARSED, status="in_progress", step="embed", next_chunk=0, attempts=0)
        return 1

    return database.transact(reset)
