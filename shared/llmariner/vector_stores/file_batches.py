"""Batches of files of vector stores: files that are added by one request, watched and cancelled together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.principal import Caller
from llmariner.vector_store_settings import VectorStoreSettings
from llmariner.vector_stores.added_files import add_files
from llmariner.vector_stores.events import (
    BATCH_CANCELLED,
    BATCH_CREATED,
    FILE_CANCELLED,
    add_batch_event,
    add_file_event,
)
from llmariner.vector_stores.rows import contents_by, load_store, lock_active_store
from llmariner.vector_stores.store import FileBatch, FileStatus, NewStoreFile
from llmariner.vector_stores.stores import touch_store
from llmariner.vector_stores.tables import vector_store_file_batches, vector_store_files

__all__ = ["FileBatches"]

_c = vector_store_file_batches.c


class FileBatches:
    """The batches of one installation. `project_id` limits a call to that project; others' are NotFound. Methods block."""

    def __init__(self, database: Database, settings: VectorStoreSettings) -> None:
        self._database = database
        self._settings = settings

    def create(self, caller: Caller, store_id: str, new: Sequence[NewStoreFile]) -> FileBatch:
        """Add files together, as `added_files.add_files` does: all of them or, with an error, none."""
        if not new:
            raise InvalidRequest("A batch needs files: name them in 'file_ids' or 'files'.", param="file_ids")
        owner = caller.key_owner
        made = {
            "id": new_id("vsfb"),
            "organization_id": owner.organization_id,
            "project_id": owner.project_id,
            "vector_store_id": store_id,
            "created_at": int(time.time()),
        }

        def insert(session: WriteSession) -> FileBatch:
            store = lock_active_store(session, owner.project_id, store_id)
            session.add(vector_store_file_batches, **made)
            batch = _load(session, owner.project_id, store_id, str(made["id"]))
            add_batch_event(session, BATCH_CREATED, batch)
            add_files(session, caller, store, new, max_files=self._settings.files_per_store, batch_id=batch.id)
            touch_store(session, store)
            return _with_contents(session, batch)

        return self._database.transact(insert)

    def get(self, project_id: str, store_id: str, batch_id: str) -> FileBatch:
        """One batch of a store. NotFound."""
        with self._database.read() as session:
            return _with_contents(session, _load(session, project_id, store_id, batch_id))

    def cancel(self, caller: Caller, store_id: str, batch_id: str) -> FileBatch:
        """Cancel the files of a batch that are in progress; those that are or were completed stay. Idempotent.

        Conflict for a batch that ended by itself.
        """
        project_id = caller.key_owner.project_id

        def end(session: WriteSession) -> FileBatch:
            batch = _load(session, project_id, store_id, batch_id, lock=True)
            if batch.cancelled_at is None:
                _cancel(session, batch)
            return _with_contents(session, _load(session, project_id, store_id, batch_id))

        return self._database.transact(end)


def _cancel(session: WriteSession, batch: Row[Any]) -> None:
    files = vector_store_files.c
    running = and_(
        files.batch_id == batch.id,
        files.status == FileStatus.IN_PROGRESS,
        files.deleted_at.is_(None),
        files.completed_at.is_(None),
    )
    rows = session.rows(select(vector_store_files).where(running).order_by(files.id).with_for_update())
    if not rows:
        raise Conflict(
            f"The batch '{batch.id}' has ended: none of its files is in progress. Remove files from the store instead.",
            param="batch_id",
            code="batch_ended",
        )
    ended = update(vector_store_files).where(files.id.in_([row.id for row in rows]))
    session.run(ended.values(status=FileStatus.CANCELLED.value, error_code=None, error_message=None, retry_at=None))
    now = int(time.time())
    session.run(update(vector_store_file_batches).where(_c.id == batch.id).values(cancelled_at=now))
    for row in rows:
        add_file_event(session, FILE_CANCELLED, row)
    add_batch_event(session, BATCH_CANCELLED, batch)


def _load(session: ReadSession, project_id: str, store_id: str, batch_id: str, *, lock: bool = False) -> Row[Any]:
    load_store(session, project_id, store_id)
    query = select(vector_store_file_batches).where(_c.id == batch_id, _c.vector_store_id == store_id)
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(
            f"No batch '{batch_id[:64]}' in the vector store '{store_id}'. Use the id that its creation returned.",
            param="batch_id",
        )
    return row


def _with_contents(session: ReadSession, batch: Row[Any]) -> FileBatch:
    contents = contents_by(session, vector_store_files.c.batch_id, [batch.id])[batch.id]
    return FileBatch(batch.id, batch.vector_store_id, batch.created_at, batch.cancelled_at is not None, contents)
