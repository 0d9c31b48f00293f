"""Tables of copies. Times are seconds since 1970, by the database's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from llmariner.platform.database import metadata

__all__ = ["model_blob_chunks", "model_blobs", "model_copies", "model_copy_files"]

model_copies = Table(
    "model_copies",
    metadata,
    Column("id", String(64), primary_key=True),
    # The model, among those that had its id one after another.
    Column("model_id", String(256), nullable=False),
    Column("model_created_at", BigInteger, nullable=False),
    Column("project_id", String(64)),
    # The commit or digest that was listed; NULL: the files are to be listed.
    Column("revision", String(128)),
    # Who works on it, and until when nobody else does.
    Column("holder", String(64), nullable=False),
    Column("held_until", Float, nullable=False),
    Column("touched_at", Float, nullable=False),
    # When bytes arrived last.
    Column("progressed_at", Float, nullable=False),
    Index("ix_model_copies_model", "model_id", "model_created_at", unique=True),
    Index("ix_model_copies_project", "project_id", "touched_at"),
)

model_copy_files = Table(
    "model_copy_files",
    metadata,
    Column("copy_id", String(64), ForeignKey("model_copies.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("path", String(512), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("url", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("git_sha1", String(40), nullable=False),
    Column("md5", String(32), nullable=False),
    Column("version", String(256), nullable=False),
    # A row refers to a content before there is any byte of it.
    Column("blob_id", String(80), nullable=False, index=True),
    # The source has it for this model: who only knows the digest of another's file does not get it.
    Column("confirmed", Boolean, nullable=False),
)

model_blobs = Table(
    "model_blobs",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("size", BigInteger, nullable=False),
    # `storing`, `stored` or `removing`.
    Column("state", String(16), nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    # Of the bytes that are stored (`ResumableDigests.state`).
    Column("digest_state", Text, nullable=False),
    # Computed, once it is stored.
    Column("sha256", String(64), nullable=False, index=True),
    Column("mismatches", Integer, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("held_until", Float, nullable=False),
    Column("touched_at", Float, nullable=False, index=True),
)

model_blob_chunks = Table(
    "model_blob_chunks",
    metadata,
    Column("blob_id", String(80), ForeignKey("model_blobs.id", ondelete="CASCADE"), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("object_key", String(256), nullable=False, index=True),
)
