"""A vector store, its files and batches, as the API shows them, and what a caller says about new ones."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from llmariner.platform.vectors import AttributeValue
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy

__all__ = [
    "SECONDS_PER_DAY",
    "Contents",
    "FileBatch",
    "FileStatus",
    "NewStoreFile",
    "NewVectorStore",
    "StoreFile",
    "VectorStore",
    "is_expired",
]

SECONDS_PER_DAY = 86400


class FileStatus(StrEnum):
    """The state of a file of a vector store."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class NewStoreFile:
    """A file to add."""

    file_id: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    chunking_strategy: ChunkingStrategy = field(default_factory=ChunkingStrategy)


@dataclass(frozen=True)
class NewVectorStore:
    """A vector store to create. `expires_after_days`: since its last activity; None: never.

    `embedding_model`: its id in the registry; None: that of the settings.
    """

    name: str = ""
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    expires_after_days: int | None = None
    embedding_model: str | None = None
    files: Sequence[NewStoreFile] = ()


@dataclass(frozen=True)
class Contents:
    """The number of files by status, and the bytes of all."""

    counts: Mapping[str, int] = field(default_factory=dict)
    usage_bytes: int = 0

    @property
    def total(self) -> int:
        """The number of files."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class VectorStore:
    """A vector store. Times are Unix seconds. `dimension` None: nothing was embedded yet."""

    id: str
    organization_id: str
    project_id: str
    name: str
    description: str
    metadata: Mapping[str, str]
    expires_after_days: int | None
    created_at: int
    last_active_at: int
    expires_at: int | None
    embedding_model: str
    dimension: int | None
    contents: Contents
    expired: bool
    rebuilding: bool = False
    """A rebuild was asked for, and some of its files do not wait for the indexer yet."""

    @classmethod
    def from_row(cls, row: Row[Any], contents: Contents) -> VectorStore:
        """The vector store of a row."""
        names = ("id", "organization_id", "project_id", "name", "description", "expires_after_days", "created_at")
        more = ("last_active_at", "expires_at", "embedding_model", "dimension")
        values = {name: row._mapping[name] for name in (*names, *more)}
        rebuilding = row.rebuild_requested_at is not None
        metadata = json.loads(row.metadata)
        return cls(metadata=metadata, contents=contents, expired=is_expired(row), rebuilding=rebuilding, **values)

    @property
    def status(self) -> str:
        """OpenAI's status."""
        if self.expired:
            return "expired"
        return "in_progress" if self.rebuilding or self.contents.counts.get(FileStatus.IN_PROGRESS) else "completed"


@dataclass(frozen=True)
class StoreFile:
    """A file of a vector store. `id` is that of its row, which the API does not show.

    `step`: parse, embed or done; `chunk_count` None: it is not parsed yet. `error_code` while in progress: why it waits.
    """

    id: str
    file_id: str
    vector_store_id: str
    status: FileStatus
    error_code: str | None
    error_message: str | None
    attributes: Mapping[str, AttributeValue]
    chunking_strategy: ChunkingStrategy
    usage_bytes: int
    step: str
    next_chunk: int
    chunk_count: int | None
    created_at: int

    @classmethod
    def from_row(cls, row: Row[Any]) -> StoreFile:
        """The file of a row of `vector_store_files`."""
        names = ("id", "file_id", "vector_store_id", "error_code", "error_message", "usage_bytes", "step", "next_chunk")
        values = {name: row._mapping[name] for name in (*names, "chunk_count", "created_at")}
        return cls(
            status=FileStatus(row.status),
            attributes=json.loads(row.attributes),
            chunking_strategy=ChunkingStrategy.from_text(row.chunking_strategy),
            **values,
        )


@dataclass(frozen=True)
class FileBatch:
    """Files that were added together; those that were removed since do not count."""

    id: str
    vector_store_id: str
    created_at: int
    cancelled: bool
    contents: Contents

    @property
    def status(self) -> str:
        """OpenAI's status. A batch fails when all of its files do."""
        counts = self.contents.counts
        if self.cancelled:
            return "cancelled"
        if counts.get(FileStatus.IN_PROGRESS):
            return "in_progress"
        failed = counts.get(FileStatus.FAILED, 0)
        return "failed" if failed and failed == self.contents.total else "completed"


def is_expired(row: Row[Any]) -> bool:
    """Whether a vector store's time is over; the sweep may not have been there yet."""
    return row.expired_at is not None or (row.expires_at is not None and row.expires_at <= time.time())
