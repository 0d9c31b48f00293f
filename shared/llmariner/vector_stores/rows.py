"""Rows of vector stores and their files, found within a project, and the counts of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, and_, func, select

from llmariner.errors import Conflict, NotFound
from llmariner.platform.database import ReadSession
from llmariner.vector_stores.store import Contents, is_expired
from llmariner.vector_stores.tables import vector_store_files, vector_stores

__all__ = [
    "contents_by",
    "live_files_of",
    "load_file",
    "load_store",
    "load_stores",
    "lock_active_store",
    "lock_live_file",
    "no_such_store",
]

_files = vector_store_files.c
_OF_STORE = [
    vector_stores.c[name]
    for name in ("embedding_model", "dimension", "rebuild_requested_at", "rebuild_user_id", "rebuild_key_id")
]


def load_store(session: ReadSession, project_id: str, store_id: str, *, lock: bool = False) -> Row[Any]:
    """A vector store of a project. NotFound for an unknown or deleted one. `lock`: until the transaction ends."""
    query = select(vector_stores).where(
        vector_stores.c.id == store_id, vector_stores.c.project_id == project_id, vector_stores.c.deleted_at.is_(None)
    )
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise no_such_store(store_id)
    return row


def load_stores(session: ReadSession, project_id: str, store_ids: Sequence[str], param: str) -> list[Row[Any]]:
    """Several vector stores of a project, each once, in the order of their ids. NotFound names the first unknown one."""
    wanted = list(dict.fromkeys(store_ids))
    # PostgreSQL does not even compare a text that holds a NUL character.
    possible = vector_stores.c.id.in_([store_id for store_id in wanted if "\0" not in store_id])
    query = select(vector_stores).where(
        possible, vector_stores.c.project_id == project_id, vector_stores.c.deleted_at.is_(None)
    )
    rows = {row.id: row for row in session.rows(query)} if wanted else {}
    for store_id in wanted:
        if store_id not in rows:
            raise no_such_store(store_id, param)
    return [rows[store_id] for store_id in wanted]


def no_such_store(store_id: str, param: str = "vector_store_id") -> NotFound:
    """The error for an unknown vector store."""
    return NotFound(
        f"No such vector store: '{store_id[:64]}'. List those of your project with GET /v1/vector_stores.",
        param=param,
    )


def lock_active_store(session: ReadSession, project_id: str, store_id: str) -> Row[Any]:
    """As `load_store`, locked. Conflict for an expired one."""
    row = load_store(session, project_id, store_id, lock=True)
    if is_expired(row):
        raise Conflict(
            f"The vector store '{store_id}' has expired, and its files are removed: create a new one.",
            param="vector_store_id",
            code="vector_store_expired",
        )
    return row


def load_file(session: ReadSession, project_id: str, store_id: str, file_id: str, *, lock: bool = False) -> Row[Any]:
    """A file of a vector store of a project. NotFound if the store is unknown, or the file is not in it."""
    load_store(session, project_id, store_id)
    query = select(vector_store_files).where(
        _files.vector_store_id == store_id, _files.file_id == file_id, _files.deleted_at.is_(None)
    )
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(
            f"No file '{file_id[:64]}' in the vector store '{store_id}'. List its files with "
            f"GET /v1/vector_stores/{store_id}/files.",
            param="file_id",
        )
    return row


def lock_live_file(session: ReadSession, row_id: str) -> Row[Any] | None:
    """The row of a file by its id, with columns of its store, locked until the transaction ends; for ingestion.

    Of its store: model, dimension, and who asked for which rebuild.

    None if the file was removed, or its store was deleted or has expired: nothing may be stored for it any more.
    """
    live = and_(_files.id == row_id, _files.deleted_at.is_(None), vector_stores.c.deleted_at.is_(None))
    query = (
        select(vector_store_files, *_OF_STORE)
        .join(vector_stores, vector_stores.c.id == _files.vector_store_id)
        .where(live, vector_stores.c.expired_at.is_(None))
    )
    return session.first(query.with_for_update(of=vector_store_files))


def contents_by(session: ReadSession, column: Column[str], ids: Iterable[str]) -> dict[str, Contents]:
    """The files of some vector stores or batches, by id: `column` of `vector_store_files` is the id. One query."""
    wanted = list(ids)
    grouped = (
        select(
            column.label("id"), _files.status, func.count().label("files"), func.sum(_files.usage_bytes).label("bytes")
        )
        .where(column.in_(wanted), _files.deleted_at.is_(None))
        .group_by(column, _files.status)
    )
    rows = session.rows(grouped) if wanted else []
    return {id_: _contents([row for row in rows if row.id == id_]) for id_ in wanted}


def live_files_of(store_id: str) -> ColumnElement[bool]:
    """The files of a vector store that were not removed."""
    return and_(_files.vector_store_id == store_id, _files.deleted_at.is_(None))


def _contents(rows: Sequence[Row[Any]]) -> Contents:
    return Contents({row.status: int(row.files) for row in rows}, sum(int(row.bytes) for row in rows))
