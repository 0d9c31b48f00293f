"""Repairs of the index of vector stores by the rows: what it lacks is indexed again, what has no row is removed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from sqlalchemy import and_, func, select, update

from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.vectors import Collection, VectorIndex
from llmariner.vector_stores.ingest.rebuild import FILES_IN_PROGRESS, index_again, note_rebuild
from llmariner.vector_stores.ingest.removal import collection_of
from llmariner.vector_stores.tables import vector_store_files, vector_stores

__all__ = ["repair", "repair_some"]

_STORES_AT_ONCE = 20
_CANDIDATES = 500

_files, _stores = vector_store_files.c, vector_stores.c


@dataclass(frozen=True)
class _Disagreement:
    """Of the rows of a file and the index. `is_surplus`: the index has more chunks than there are rows."""

    is_completed: bool
    is_surplus: bool


def repair(database: Database, index: VectorIndex, *, project_id: str, store_id: str) -> int:
    """Index the files of a vector store again of which the index has another number of chunks; returns their number.

    Where that are many, the store is rebuilt. It counts to the project alone. Chunks of files that are not in the store are
    removed from the index. VectorIndexUnavailable.
    """
    with database.read() as session:
        completed = _completed(session, store_id)
        collection = collection_of(session, store_id)
    if collection is None:
        # The dimension of its vectors is not known: none of its files is in the index.
        wrong: Mapping[str, _Disagreement] = dict.fromkeys(
            completed, _Disagreement(is_completed=True, is_surplus=False)
        )
    else:
        # Twice, since files are completed and removed meanwhile.
        wrong = _disagreements(database, index, collection, project_id, store_id)
        if wrong:
            still = _disagreements(database, index, collection, project_id, store_id)
            wrong = {row_id: each for row_id, each in wrong.items() if row_id in still}
        for row_id, each in wrong.items():
            if each.is_surplus:
                # Indexing the file again would replace its chunks, and leave the others.
                index.delete_file(collection, project_id, store_id, row_id)
    completed = [row_id for row_id, each in wrong.items() if each.is_completed]
    if len(completed) > FILES_IN_PROGRESS:
        database.transact(partial(_rebuild, store_id=store_id))
        return len(completed)
    return sum(database.transact(partial(index_again, row_id=row_id, rebuild_at=None)) for row_id in completed)


def repair_some(database: Database, index: VectorIndex, *, until: float) -> int:
    """`repair` the vector stores that were not compared for the longest time; returns the number of files.

    Of those, the same number of each project first. For the sweep. It ends at `until` (monotonic).
    """
    live = and_(_stores.deleted_at.is_(None), _stores.expired_at.is_(None), _stores.rebuild_requested_at.is_(None))
    columns = (_stores.id, _stores.project_id, _stores.checked_at)
    with database.read() as session:
        query = select(*columns).where(live, _stores.checked_at <= session.now())
        oldest = query.order_by(_stores.checked_at).limit(_CANDIDATES).subquery()
        turn = func.row_number().over(partition_by=oldest.c.project_id, order_by=oldest.c.checked_at)
        rows = session.rows(select(oldest).order_by(turn, oldest.c.checked_at).limit(_STORES_AT_ONCE))
    repaired = 0
    for row in rows:
        if time.monotonic() > until:
            break
        with database.write() as session:
            session.run(update(vector_stores).where(_stores.id == row.id).values(checked_at=session.now()))
        repaired += repair(database, index, project_id=row.project_id, store_id=row.id)
    return repaired


def _rebuild(session: WriteSession, *, store_id: str) -> None:
    live = and_(_stores.id == store_id, _stores.deleted_at.is_(None), _stores.expired_at.is_(None))
    store = session.first(select(vector_stores).where(live).with_for_update())
    if store is not None and store.rebuild_requested_at is None:
        note_rebuild(session, store, None)


def _disagreements(
    database: Database, index: VectorIndex, collection: Collection, project_id: str, store_id: str
) -> Mapping[str, _Disagreement]:
    """The ids of files of which rows and index have different numbers of chunks."""
    with database.read() as session:
        live = (_files.vector_store_id == store_id) & _files.deleted_at.is_(None)
        rows = session.rows(select(_files.id, _files.status, _files.chunk_count).where(live))
    counts = index.chunk_counts(collection, project_id, store_id)
    expected = {row.id: row.chunk_count for row in rows if row.status == "completed"}
    known = {row.id for row in rows if row.status in ("completed", "in_progress")}
    unknown = {row_id: _Disagreement(is_completed=False, is_surplus=True) for row_id in counts if row_id not in known}
    return unknown | {
        row_id: _Disagreement(is_completed=True, is_surplus=counts.get(row_id, 0) > (count or 0))
        for row_id, count in expected.items()
        if counts.get(row_id, 0) != count
    }


def _completed(session: ReadSession, store_id: str) -> list[str]:
    completed = (_files.vector_store_id == store_id) & _files.deleted_at.is_(None) & (_files.status == "completed")
    return [row.id for row in session.rows(select(_files.id).where(completed).order_by(_files.id))]
