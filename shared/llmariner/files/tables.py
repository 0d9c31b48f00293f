"""Tables of files. Times are seconds since 1970.

A file refers to its content, and files of one project with the same bytes share one. A content is in the object store
before its row is in the database, and leaves the store after its row: an object without a row is garbage, a row without
its object does not occur.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, String, Table, UniqueConstraint

from llmariner.platform.database import metadata

__all__ = ["file_contents", "file_usage", "files", "upload_parts", "uploads"]

file_contents = Table(
    "file_contents",
    metadata,
    # The key of the object.
    Column("key", String(128), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("project_id", "sha256"),
)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("filename", String(256), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content_type", String(128), nullable=False),
    # NULL: the bytes are outside the platform's store, at `object_path`.
    Column("content_key", String(128), ForeignKey("file_contents.key"), index=True),
    Column("object_path", String(1024)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("ix_files_project_id", "project_id", "id"),
    Index("ix_files_purpose", "project_id", "purpose", "id"),
    Index("ix_files_expires_at", "expires_at", "id"),
)

# What counts against the quotas of a project. Transactions that add or delete files lock its row first.
file_usage = Table(
    "file_usage",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

# Uploads of files in parts. A pending one counts in `file_usage` as the file that it becomes.
uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # When it was completed, cancelled, or found to be expired.
    Column("ended_at", BigInteger, index=True),
    Column("status", String(16), nullable=False),
    Column("filename", String(256), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("content_type", String(128), nullable=False),
    # Seconds from the creation of the file to its end. NULL: by its purpose.
    Column("file_expires_after", BigInteger),
    Column("size_bytes", BigInteger, nullable=False),
    # The completion that is under way, and until when it may be; NULL: none.
    Column("claim", String(64)),
    Column("claimed_until", Float),
    # The request that completed it, so that the same request is answered alike, and its file.
    Column("request_digest", String(64)),
    Column("file_id", String(64)),
    Index("ix_uploads_status", "status", "expires_at"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("upload_id", String(64), ForeignKey("uploads.id"), nullable=False, index=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)
