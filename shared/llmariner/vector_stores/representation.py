"""The objects of the API: OpenAI's fields, and the progress of ingestion."""

from __future__ import annotations

from typing import Any

from llmariner.platform.serving import served_name
from llmariner.vector_stores.store import Contents, FileBatch, FileStatus, StoreFile, VectorStore

__all__ = ["file_batch_object", "store_file_object", "vector_store_object"]


def vector_store_object(store: VectorStore) -> dict[str, Any]:
    """OpenAI's object, with the name of the store's embedding model, and its dimension once something was embedded."""
    days = store.expires_after_days
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "usage_bytes": store.contents.usage_bytes,
        "file_counts": _counts(store.contents),
        "status": store.status,
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": store.expires_at,
        "last_active_at": store.last_active_at,
        "metadata": dict(store.metadata),
        "embedding_model": served_name(store.embedding_model),
        "embedding_dimensions": store.dimension,
    }


def store_file_object(file: StoreFile) -> dict[str, Any]:
    """OpenAI's object; `progress` says how far ingestion is. `last_error` of a file in progress says why it waits."""
    error = None if file.error_code is None else {"code": file.error_code, "message": file.error_message or ""}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "usage_bytes": file.usage_bytes,
        "created_at": file.created_at,
        "vector_store_id": file.vector_store_id,
        "status": file.status,
        "last_error": error,
        "chunking_strategy": file.chunking_strategy.to_api(),
        "attributes": dict(file.attributes),
        "progress": {"step": file.step, "chunks_indexed": file.next_chunk, "chunks": file.chunk_count},
    }


def file_batch_object(batch: FileBatch) -> dict[str, Any]:
    """OpenAI's object."""
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.vector_store_id,
        "status": batch.status,
        "file_counts": _counts(batch.contents),
    }


def _counts(contents: Contents) -> dict[str, int]:
    return {**{status.value: contents.counts.get(status, 0) for status in FileStatus}, "total": contents.total}
