"""Removal of what is left of files: from the index at once, and their rows once no process works on them any more."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    true,
    union_all,
    update,
)

from llmariner.platform.database import Database, ReadSession
from llmariner.platform.vectors import Collection, VectorIndex
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.tables import (
    vector_store_chunks,
    vector_store_file_batches,
    vector_store_files,
    vector_stores,
)

__all__ = ["collection_of", "purge", "remove_file", "remove_store", "remove_unless_live"]

_KEEP_SECONDS = 3600
"""How long the rows of removed files remain: pages of lists begin at them, and no claim lasts so long."""

_ROWS_AT_ONCE = 1000
_FILES_AT_ONCE = 200
_STORES_AT_ONCE = 200

_files, _stores, _chunks = vector_store_files.c, vector_stores.c, vector_store_chunks.c
_ENDED = ("failed", "cancelled")


def collection_of(session: ReadSession, store_id: str) -> Collection | None:
    """The collection of a vector store, also of a deleted one; None while it has no vectors, or no row any more."""
    row = session.first(select(_stores.embedding_model, _stores.dimension).where(_stores.id == store_id))
    return None if row is None or row.dimension is None else Collection(row.embedding_model, row.dimension)


def remove_file(database: Database, index: VectorIndex, *, project_id: str, store_id: str, row_id: str) -> None:
    """Remove the chunks of a file from the index. Idempotent. VectorIndexUnavailable."""
    with database.read() as session:
        collection = collection_of(session, store_id)
    if collection is not None:
        index.delete_file(collection, project_id, store_id, row_id)


def remove_store(database: Database, index: VectorIndex, *, project_id: str, store_id: str) -> None:
    """Remove the chunks of a deleted vector store from the index. Idempotent. VectorIndexUnavailable."""
    with database.read() as session:
        collection = collection_of(session, store_id)
    if collection is not None:
        index.delete_store(collection, project_id, store_id)


def remove_unless_live(database: Database, index: VectorIndex, row_id: str) -> None:
    """Remove the chunks of a file from the index if it was removed or cancelled, or failed. VectorIndexUnavailable."""
    with database.read() as session:
        row = session.first(select(vector_store_files).where(_files.id == row_id))
        live = lock_live_file(session, row_id)
    if row is not None and (live is None or live.status in _ENDED):
        remove_file(database, index, project_id=row.project_id, store_id=row.vector_store_id, row_id=row_id)


def purge(database: Database, index: VectorIndex, *, until: float = math.inf, at_once: int = _FILES_AT_ONCE) -> int:
    """Delete the rows of files and vector stores that were removed an hour ago, and the chunks of failed files.

    Returns the number of files. Projects take turns. It ends at `until` (monotonic). For the sweep. VectorIndexUnavailable.
    """
    purged, stores = 0, set[str]()
    with database.read() as session:
        before = int(session.now()) - _KEEP_SECONDS
    while True:
        rows = _ended_files(database, before, at_once)
        for row in rows:
            if time.monotonic() > until:
                return purged
            _purge_file(database, index, row, stores)
            purged += 1
        if len(rows) < at_once:
            break
    _purge_stores(database, index, before, until)
    return purged


def _ended_files(database: Database, before: float, limit: int) -> Sequence[Row[Any]]:
    """Files to purge, those of each project in order. `gone`: with their rows. `store_gone`: with all of their store."""
    # One SELECT for each index: with OR, all rows would be read.
    gone_stores = select(_stores.id).where(_stores.deleted_at <= before)
    store_gone = _files.vector_store_id.in_(gone_stores)
    is_kept = or_(_files.deleted_at.is_(None), _files.deleted_at > before)
    ended = and_(_files.status.in_(_ENDED), _files.retry_at.is_(None), _files.deleted_at.is_(None), ~store_gone)
    found = union_all(
        _labeled(true(), store_gone).where(_files.deleted_at <= before),
        _labeled(true(), true()).where(store_gone, is_kept),
        _labeled(false(), false()).where(ended),
    ).subquery()
    turn = func.row_number().over(partition_by=found.c.project_id, order_by=found.c.id)
    with database.read() as session:
        return session.rows(select(found).order_by(turn, found.c.id).limit(limit))


def _labeled(gone: ColumnElement[bool], store_gone: ColumnElement[bool]) -> Select[Any]:
    labels = (gone.label("gone"), store_gone.label("store_gone"))
    return select(_files.id, _files.project_id, _files.vector_store_id, *labels)


def _purge_file(database: Database, index: VectorIndex, row: Row[Any], stores: set[str]) -> None:
    """`stores`: deleted ones of which this sweep has removed all chunks from the index."""
    place = {"project_id": row.project_id, "store_id": row.vector_store_id}
    if not row.store_gone:
        remove_file(database, index, **place, row_id=row.id)
    elif row.vector_store_id not in stores:
        remove_store(database, index, **place)
        stores.add(row.vector_store_id)
    _delete_chunks(database, row.id)
    with database.write() as session:
        if row.gone:
            session.run(delete(vector_store_files).where(_files.id == row.id))
        else:
            ended = (_files.id == row.id) & _files.status.in_(_ENDED)
            removed = {"chunk_count": None, "next_chunk": 0, "retry_at": session.now()}
            session.run(update(vector_store_files).where(ended).values(**removed))


def _purge_stores(database: Database, index: VectorIndex, before: float, until: float) -> None:
    """Delete the rows of deleted vector stores without files."""
    has_files = exists().where(_files.vector_store_id == _stores.id)
    query = select(_stores.id, _stores.project_id).where(_stores.deleted_at <= before, ~has_files)
    with database.read() as session:
        rows = session.rows(query.order_by(_stores.deleted_at).limit(_STORES_AT_ONCE))
    for row in rows:
        if time.monotonic() > until:
            return
        remove_store(database, index, project_id=row.project_id, store_id=row.id)
        with database.write() as session:
            batches = vector_store_file_batches.c.vector_store_id == row.id
            session.run(delete(vector_store_file_batches).where(batches))
            session.run(delete(vector_stores).where(_stores.id == row.id))


def _delete_chunks(database: Database, row_id: str) -> None:
    """Delete the rows of a file's chunks, in transactions of bounded size."""
    some = select(_chunks.id).where(_chunks.vector_store_file_id == row_id).limit(_ROWS_AT_ONCE)
    while True:
        with database.write() as session:
            if session.run(delete(vector_store_chunks).where(_chunks.id.in_(some))) < _ROWS_AT_ONCE:
                return
