"""Files of projects, as rows without content, and vector stores with every event that they emit."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import select, update

from llmariner.files.file import file_from_row
from llmariner.files.tables import files
from llmariner.identifiers import new_id
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.vector_store_settings import VectorStoreSettings
from llmariner.vector_stores.events import FILE_PARSED
from llmariner.vector_stores.file_batches import FileBatches
from llmariner.vector_stores.ingest.claims import acquire, hand_on
from llmariner.vector_stores.ingest.outcomes import complete, fail
from llmariner.vector_stores.ingest.rebuild import request_rebuild
from llmariner.vector_stores.removals import VectorStoreReferences
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore, VectorStore
from llmariner.vector_stores.store_files import StoreFiles
from llmariner.vector_stores.stores import VectorStores
from llmariner.vector_stores.tables import vector_store_files, vector_stores

__all__ = ["Shelf", "emit_vector_store_events", "member_of"]


def member_of(owner: KeyOwner) -> Caller:
    """A person who works in the owner's project."""
    return Caller(
        user_id=owner.user_id,
        email="ann@example.org",
        organization_id=owner.organization_id,
        project_id=owner.project_id,
        organization_role=None,
        project_role="member",
        scopes=frozenset(),
    )


class Shelf:
    """Vector stores and files of one project. The methods without a description call the store of the same name."""

    def __init__(self, database: Database, owner: KeyOwner, **settings: Any) -> None:
        self.database = database
        self.caller = member_of(owner)
        self.project_id = owner.project_id
        self.settings = replace(VectorStoreSettings(), **settings)
        self.stores = VectorStores(database, self.settings)
        self.files = StoreFiles(database, self.settings)
        self.batches = FileBatches(database, self.settings)

    def file(self, **values: Any) -> str:
        """The id of a new file of the project."""
        owner = self.caller.key_owner
        row = {
            "id": new_id("file").replace("_", "-", 1),
            "organization_id": owner.organization_id,
            "project_id": owner.project_id,
            "filename": "a.txt",
            "purpose": "assistants",
            "size_bytes": 3,
            "content_type": "text/plain",
            "created_at": int(time.time()),
            **values,
        }
        with self.database.write() as session:
            session.add(files, **row)
        return str(row["id"])

    def store(self, *file_ids: str, **values: Any) -> VectorStore:
        """A new vector store with these files."""
        return self.stores.create(self.caller, NewVectorStore(files=[NewStoreFile(id_) for id_ in file_ids], **values))

    def get(self, store_id: str) -> VectorStore:
        """The store as it is now."""
        return self.stores.get(self.project_id, store_id)

    def ingest(self, store_id: str, file_id: str, **values: Any) -> None:
        """What ingestion writes to the row of a file: by default, that it is completed."""
        done = {"status": "completed", "step": "done", "usage_bytes": 10, "chunk_count": 1, "next_chunk": 1, **values}
        row = (vector_store_files.c.vector_store_id == store_id) & (vector_store_files.c.file_id == file_id)
        with self.database.write() as session:
            session.run(update(vector_store_files).where(row).values(**done))

    def pass_time(self, store_id: str, seconds: int) -> None:
        """Move the times of a store into the past."""
        c = vector_stores.c
        past = {"last_active_at": c.last_active_at - seconds, "expires_at": c.expires_at - seconds}
        with self.database.write() as session:
            session.run(update(vector_stores).where(c.id == store_id).values(**past))

    def delete_file(self, file_id: str) -> None:
        """Delete a file as `files.Files` does."""
        with self.database.write() as session:
            row = session.first(select(files).where(files.c.id == file_id))
            assert row is not None
            VectorStoreReferences().on_file_deleted(session, file_from_row(row))
            session.run(files.delete().where(files.c.id == file_id))


def emit_vector_store_events(database: Database, owner: KeyOwner) -> None:
    """Every operation on vector stores that emits an event."""
    shelf = Shelf(database, owner)
    file_id = shelf.file()
    store = shelf.store(file_id, name="manuals", expires_after_days=1)
    shelf.stores.update(shelf.caller, store.id, {"name": "books"})
    shelf.files.set_attributes(shelf.caller, store.id, file_id, {"year": 2026})
    shelf.ingest(store.id, file_id, completed_at=1)
    request_rebuild(database, shelf.caller, store.id)
    shelf.files.remove(shelf.caller, store.id, file_id)
    batch = shelf.batches.create(shelf.caller, store.id, [NewStoreFile(file_id)])
    shelf.batches.cancel(shelf.caller, store.id, batch.id)
    _emit_ingestion_events(database, shelf)
    shelf.pass_time(store.id, 2 * 86400)
    shelf.stores.expire()
    shelf.stores.delete(shelf.caller, store.id)


def _emit_ingestion_events(database: Database, shelf: Shelf) -> None:
    """A file that is ingested, and one that is not."""
    for is_good in (True, False):
        store_id = shelf.store(shelf.file()).id
        with database.read() as session:
            row_id = session.value(
                select(vector_store_files.c.id).where(vector_store_files.c.vector_store_id == store_id)
            )
        claim = acquire(database, row_id, "parse", None)
        assert claim is not None
        if is_good:
            with database.write() as session:
                hand_on(session, claim.check(session), FILE_PARSED, step="embed", next_chunk=0, chunk_count=1)
                row = session.first(select(vector_store_files).where(vector_store_files.c.id == row_id))
            assert row is not None
            claim = acquire(database, row_id, "embed", row.retry_at)
            assert claim is not None
            complete(database, claim, dimension=8)
        else:
            fail(database, claim, "invalid_file", "The file is empty.")
