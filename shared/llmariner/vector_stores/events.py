"""Events of vector stores, their files and batches of files."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox

__all__ = [
    "BATCH_CANCELLED",
    "BATCH_CREATED",
    "CREATED",
    "DELETED",
    "EXPIRED",
    "FILE_CANCELLED",
    "FILE_COMPLETED",
    "FILE_CREATED",
    "FILE_DELETED",
    "FILE_FAILED",
    "FILE_PARSED",
    "FILE_UPDATED",
    "REBUILD_REQUESTED",
    "UPDATED",
    "add_batch_event",
    "add_file_event",
    "add_store_event",
]

CREATED = "ai.llmariner.vector_store.created.v1"
UPDATED = "ai.llmariner.vector_store.updated.v1"
REBUILD_REQUESTED = "ai.llmariner.vector_store.rebuild_requested.v1"
EXPIRED = "ai.llmariner.vector_store.expired.v1"
DELETED = "ai.llmariner.vector_store.deleted.v1"
FILE_CREATED = "ai.llmariner.vector_store.file.created.v1"
FILE_PARSED = "ai.llmariner.vector_store.file.parsed.v1"
FILE_COMPLETED = "ai.llmariner.vector_store.file.completed.v1"
FILE_FAILED = "ai.llmariner.vector_store.file.failed.v1"
FILE_UPDATED = "ai.llmariner.vector_store.file.updated.v1"
FILE_CANCELLED = "ai.llmariner.vector_store.file.cancelled.v1"
FILE_DELETED = "ai.llmariner.vector_store.file.deleted.v1"
BATCH_CREATED = "ai.llmariner.vector_store.file_batch.created.v1"
BATCH_CANCELLED = "ai.llmariner.vector_store.file_batch.cancelled.v1"


def add_store_event(session: WriteSession, type_: str, store: Row[Any]) -> None:
    """Add an event about a vector store, a row of `vector_stores`, to the outbox."""
    outbox.add(session, type_, f"vector_stores/{store.id}", {"id": store.id, "name": store.name, **_owner(store)})


def add_file_event(session: WriteSession, type_: str, file: Row[Any], **fields: Any) -> None:
    """Add an event about a file of a vector store; `file` has the columns of ids of `vector_store_files`.

    `fields` are further data. Its `id` is that of the row: a file that is removed and added again is another one.
    """
    data = {"id": file.id, "vector_store_id": file.vector_store_id, "file_id": file.file_id, **fields, **_owner(file)}
    outbox.add(session, type_, f"vector_store_files/{file.id}", data)


def add_batch_event(session: WriteSession, type_: str, batch: Row[Any]) -> None:
    """Add an event about a batch of files, a row of `vector_store_file_batches`."""
    data = {"id": batch.id, "vector_store_id": batch.vector_store_id, **_owner(batch)}
    outbox.add(session, type_, f"vector_store_file_batches/{batch.id}", data)


def _owner(row: Row[Any]) -> dict[str, Any]:
    return {"project_id": row.project_id, "organization_id": row.organization_id}
