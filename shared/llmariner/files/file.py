"""A file, and what a caller says about a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from llmariner.files.purposes import Purpose

__all__ = ["File", "NewFile", "StoredContent", "file_from_row"]


@dataclass(frozen=True)
class NewFile:
    """`filename` and `content_type` as `files.names` returns them. `expires_after_seconds` None: by its purpose."""

    filename: str
    purpose: Purpose
    content_type: str
    expires_after_seconds: int | None = None


@dataclass(frozen=True)
class StoredContent:
    """A committed object that no file refers to yet. `sha256`: in hex."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class File:
    """A file of a project. Times are Unix seconds; `expires_at` None: it does not expire.

    Its bytes are the object `content_key` of the platform's store or, where that is None, those at `object_path`.
    """

    id: str
    organization_id: str
    project_id: str
    filename: str
    purpose: Purpose
    size_bytes: int
    content_type: str
    content_key: str | None
    object_path: str | None
    created_at: int
    expires_at: int | None


def file_from_row(row: Row[Any]) -> File:
    """The file of a row of the table `files`."""
    return File(**{**row._mapping, "purpose": Purpose(row.purpose)})
