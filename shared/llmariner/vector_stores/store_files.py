"""The files of vector stores: added, listed, given attributes, removed, and read as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sqlalchemy import select, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.vectors import AttributeValue
from llmariner.tenancy.principal import Caller
from llmariner.vector_store_settings import VectorStoreSettings
from llmariner.vector_stores.added_files import add_files
from llmariner.vector_stores.attributes import validate_attributes
from llmariner.vector_stores.events import FILE_UPDATED, add_file_event
from llmariner.vector_stores.ingest.attributes_step import check_changed_files
from llmariner.vector_stores.pages import Paging, fetch_page
from llmariner.vector_stores.removals import remove_files
from llmariner.vector_stores.rows import live_files_of, load_file, load_store, lock_active_store
from llmariner.vector_stores.store import FileStatus, NewStoreFile, StoreFile
from llmariner.vector_stores.stores import touch_store
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

__all__ = ["StoreFiles"]

_CHUNKS_AT_ONCE = 200

_c = vector_store_files.c


class StoreFiles:
    """The files of the vector stores of one installation. All methods block.

    `project_id` limits a call to that project; others' stores are NotFound.
    """

    def __init__(self, database: Database, settings: VectorStoreSettings) -> None:
        self._database = database
        self._settings = settings

    def add(self, caller: Caller, store_id: str, new: NewStoreFile) -> StoreFile:
        """Add a file of the project, as `added_files.add_files` does. An event lets consumers ingest it."""
        project_id = caller.key_owner.project_id

        def insert(session: WriteSession) -> StoreFile:
            store = lock_active_store(session, project_id, store_id)
            add_files(session, caller, store, [new], max_files=self._settings.files_per_store)
            touch_store(session, store)
            return StoreFile.from_row(load_file(session, project_id, store_id, new.file_id))

        return self._database.transact(insert)

    def page(
        self,
        project_id: str,
        store_id: str,
        paging: Paging,
        *,
        status: FileStatus | None = None,
        batch_id: str | None = None,
    ) -> tuple[list[StoreFile], bool]:
        """A page of the files of a store, and whether more follow. Cursors are ids of files that are or were in it.

        InvalidRequest for an unknown cursor.
        """
        query = select(vector_store_files).where(live_files_of(store_id))
        if status is not None:
            query = query.where(_c.status == status)
        if batch_id is not None:
            query = query.where(_c.batch_id == batch_id)
        with self._database.read() as session:
            load_store(session, project_id, store_id)
            after = _position(session, store_id, "after", paging.after)
            before = _position(session, store_id, "before", paging.before)
            rows, more = fetch_page(session, query, _c.id, replace(paging, after=after, before=before))
        return [StoreFile.from_row(row) for row in rows], more

    def get(self, project_id: str, store_id: str, file_id: str) -> StoreFile:
        """One file of a store. NotFound."""
        with self._database.read() as session:
            return StoreFile.from_row(load_file(session, project_id, store_id, file_id))

    def set_attributes(
        self, caller: Caller, store_id: str, file_id: str, attributes: Mapping[str, AttributeValue]
    ) -> StoreFile:
        """Replace the attributes of a file. InvalidRequest, NotFound. An event lets a consumer change the index.

        RateLimited while the index lacks those of many files of the project; further changes of these are accepted.
        """
        project_id = caller.key_owner.project_id
        text = json.dumps(validate_attributes(attributes), separators=(",", ":"))

        def change(session: WriteSession) -> StoreFile:
            row = load_file(session, project_id, store_id, file_id, lock=True)
            if row.attributes != text:
                values: dict[str, str | float] = {"attributes": text}
                if row.attributes_changed_at is None:
                    check_changed_files(session, project_id)
                    values["attributes_changed_at"] = session.now()
                    add_file_event(session, FILE_UPDATED, row)
                session.run(update(vector_store_files).where(_c.id == row.id).values(**values))
            return StoreFile.from_row(load_file(session, project_id, store_id, file_id))

        return self._database.transact(change)

    def remove(self, caller: Caller, store_id: str, file_id: str) -> None:
        """Remove a file from a store; it remains a file of the project. NotFound.

        Ingestion of it stops. An event lets a consumer remove its chunks.
        """
        owner = caller.key_owner

        def remove(session: WriteSession) -> None:
            row = load_file(session, owner.project_id, store_id, file_id, lock=True)
            remove_files(session, [row])
            payload = {"id": file_id, "vector_store_id": store_id}
            place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
            log.append_entry(session, caller, "vector_store.file.deleted", payload, **place)

        self._database.transact(remove)

    def texts(self, project_id: str, store_id: str, file_id: str) -> Iterator[str]:
        """The texts of a file's chunks, in order, read in parts. NotFound; Conflict for a file that never was completed.

        The errors are raised before this returns. The iterator ends early if the file is removed meanwhile.
        """
        with self._database.read() as session:
            row = load_file(session, project_id, store_id, file_id)
        if row.status != FileStatus.COMPLETED and row.completed_at is None:
            raise Conflict(
                f"The file '{file_id}' has no content in the vector store: its status is '{row.status}'. Wait until it is "
                f"'completed', or read GET /v1/vector_stores/{store_id}/files/{file_id} for its error.",
                param="file_id",
                code="file_not_completed",
            )
        return self._read_chunks(row.id)

    def _read_chunks(self, row_id: str) -> Iterator[str]:
        chunks = vector_store_chunks.c
        query = select(chunks.chunk_index, chunks.text).where(chunks.vector_store_file_id == row_id)
        after = -1
        while True:
            part = query.where(chunks.chunk_index > after).order_by(chunks.chunk_index).limit(_CHUNKS_AT_ONCE)
            with self._database.read() as session:
                rows = session.rows(part)
            yield from (row.text for row in rows)
            if len(rows) < _CHUNKS_AT_ONCE:
                return
            after = rows[-1].chunk_index


def _position(session: ReadSession, store_id: str, param: str, file_id: str | None) -> str | None:
    """The id of the row of a cursor; for a file that was removed and added again, of its last row."""
    if file_id is None:
        return None
    rows = select(_c.id).where(_c.vector_store_id == store_id, _c.file_id == file_id)
    found: str | None = session.value(rows.order_by(_c.deleted_at.is_not(None), _c.id.desc()).limit(1))
    if found is None:
        raise InvalidRequest(
            f"'{param}' names no file of this vector store: '{file_id[:64]}'. Begin with the first page.", param=param
        )
    return found
