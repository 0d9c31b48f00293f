"""Tables of vector stores. Times are seconds since 1970. Rows are the truth; the index of `platform.vectors` is derived.

Deletion has two steps: the API sets `deleted_at`, by which a row is gone for every caller, and writes an event. A consumer
then removes the chunks from the index and deletes the rows. A file that is added again has a new row.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, false, text

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["vector_store_chunks", "vector_store_file_batches", "vector_store_files", "vector_stores"]

# Rows of expired stores stay: without it, sweeps would read more of them each time.
_ACTIVE_STORES = "expired_at IS NULL AND deleted_at IS NULL"

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    # The name where names are unique within a project by setting, else NULL.
    Column("unique_name", String(256)),
    Column("description", Text, nullable=False),
    # JSON objects.
    Column("metadata", Text, nullable=False),
    Column("expires_after_days", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("last_active_at", BigInteger, nullable=False),
    # `last_active_at` plus the days; NULL: never.
    Column("expires_at", BigInteger),
    # When the sweep ended an expired store. Its files and chunks are then removed, its row stays.
    Column("expired_at", BigInteger),
    Column("deleted_at", BigInteger),
    # The embedding model's id in the registry; the dimension of its vectors is NULL before the first file is embedded.
    Column("embedding_model", String(256), nullable=False),
    Column("dimension", Integer),
    # When a rebuild was asked for whose files were not all handed to the indexer yet; NULL: none is under way.
    Column("rebuild_requested_at", Float),
    # Who asked for the last rebuild: embedding counts to them and their key. NULL: the platform did, and it counts to the
    # project alone.
    Column("rebuild_user_id", String(64)),
    Column("rebuild_key_id", String(64)),
    # When the sweep last compared its index with its rows; 0: never.
    Column("checked_at", Float, nullable=False, server_default="0"),
    Index("ix_vector_stores_rebuild_requested_at", "rebuild_requested_at"),
    Index(
        "ix_vector_stores_checked_at",
        "checked_at",
        sqlite_where=text(_ACTIVE_STORES),
        postgresql_where=text(_ACTIVE_STORES),
    ),
    Index(
        "ix_vector_stores_due", "expires_at", sqlite_where=text(_ACTIVE_STORES), postgresql_where=text(_ACTIVE_STORES)
    ),
    Index("ix_vector_stores_project", "project_id", "id"),
    Index("ix_vector_stores_unique_name", "project_id", "unique_name", unique=True),
    Index("ix_vector_stores_name", "project_id", "name"),
    Index("ix_vector_stores_expires_at", "expires_at"),
    Index("ix_vector_stores_deleted_at", "deleted_at"),
)

vector_store_file_batches = Table(
    "vector_store_file_batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("vector_store_id", String(64), ForeignKey("vector_stores.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("cancelled_at", BigInteger),
    Index("ix_vector_store_file_batches_store", "vector_store_id", "id"),
)

_LIVE_FILES = "deleted_at IS NULL"
_CHANGED_ATTRIBUTES = "attributes_changed_at IS NOT NULL"

vector_store_files = Table(
    "vector_store_files",
    metadata,
    # The id of this row (`vsf_…`), which the API does not show. In the index it is the `file_id` of the file's chunks, so
    # that the chunks of a removed file differ from those of the same file added again.
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("vector_store_id", String(64), ForeignKey("vector_stores.id"), nullable=False),
    Column("file_id", String(64), nullable=False),
    # Who added it: embedding counts to them and their key. NULL: a signed-in person without a key.
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64)),
    Column("batch_id", String(64), ForeignKey("vector_store_file_batches.id")),
    # in_progress, completed, cancelled, failed.
    Column("status", String(16), nullable=False),
    # OpenAI's codes: server_error, unsupported_file, invalid_file. While in progress: why it waits.
    Column("error_code", String(32)),
    Column("error_message", SanitizedText),
    # JSON objects.
    Column("attributes", Text, nullable=False),
    Column("chunking_strategy", Text, nullable=False),
    # Bytes of its chunks and vectors; 0 before it is completed.
    Column("usage_bytes", BigInteger, nullable=False),
    # parse, embed, done.
    Column("step", String(16), nullable=False),
    # The first chunk that is not indexed yet; the number of chunks is NULL before the file is parsed.
    Column("next_chunk", Integer, nullable=False),
    Column("chunk_count", Integer),
    # Attempts of the current step, and when the sweep may retry it; NULL: an event is on its way. Of a file that failed or
    # was cancelled: when the sweep removed its chunks; NULL: not yet.
    Column("attempts", Integer, nullable=False),
    Column("retry_at", Float),
    # Events that the sweep wrote for the current step since somebody acted on one.
    Column("unclaimed_events", Integer),
    Column("created_at", BigInteger, nullable=False),
    # When it was first completed. From then on it can't fail: its index is only derived again. NULL: it never was.
    Column("completed_at", BigInteger),
    # The rebuild (`rebuild_requested_at` of the store) that last handed it to the indexer; NULL: none, or a repair did.
    Column("rebuild_at", Float),
    # When an event was written by which the index gets its attributes; NULL: it has them.
    Column("attributes_changed_at", Float),
    Column("deleted_at", BigInteger),
    Index(
        "ix_vector_store_files_attributes",
        "project_id",
        "attributes_changed_at",
        sqlite_where=text(_CHANGED_ATTRIBUTES),
        postgresql_where=text(_CHANGED_ATTRIBUTES),
    ),
    Index(
        "ix_vector_store_files_file",
        "vector_store_id",
        "file_id",
        unique=True,
        sqlite_where=text(_LIVE_FILES),
        postgresql_where=text(_LIVE_FILES),
    ),
    Index("ix_vector_store_files_store", "vector_store_id", "id"),
    # Covers the counts and the sum of bytes.
    Index("ix_vector_store_files_counts", "vector_store_id", "deleted_at", "status", "usage_bytes"),
    Index("ix_vector_store_files_batch", "batch_id", "id"),
    Index("ix_vector_store_files_file_id", "file_id"),
    Index("ix_vector_store_files_status", "status", "retry_at"),
    Index("ix_vector_store_files_deleted_at", "deleted_at"),
)

vector_store_chunks = Table(
    "vector_store_chunks",
    metadata,
    # `<id of the file's row>-<chunk_index>`, as in the index.
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("vector_store_id", String(64), nullable=False),
    Column("vector_store_file_id", String(64), ForeignKey("vector_store_files.id"), nullable=False),
    # From 0, in the order of the document.
    Column("chunk_index", Integer, nullable=False),
    Column("text", SanitizedText, nullable=False),
    Column("tokens", Integer, nullable=False),
    # From 1; NULL: the format has no pages.
    Column("page", Integer),
    # Characters of the document's text.
    Column("start_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    # A JSON list, the highest heading first.
    Column("headings", SanitizedText, nullable=False),
    Column("indexed", Boolean, nullable=False, server_default=false()),
    Index("ix_vector_store_chunks_file", "vector_store_file_id", "chunk_index", unique=True),
)
