"""An upload, what a caller says about a new one, and its representation in the API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from llmariner.files.file import File, NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.representation import file_object

__all__ = ["PART_PREFIX", "Part", "Status", "Upload", "part_key", "part_object", "upload_from_row", "upload_object"]

PART_PREFIX = "uploads/"
"""Precedes the keys of the objects of parts."""


class Status(StrEnum):
    """OpenAI's states. All but the first are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Upload:
    """An upload of a project: the file that it becomes, and `size_bytes` that its parts must have together.

    Times are Unix seconds. `file_id` and `request_digest` (of the request that completed it) are None until it is completed.
    """

    id: str
    organization_id: str
    project_id: str
    created_at: int
    expires_at: int
    status: Status
    new_file: NewFile
    size_bytes: int
    request_digest: str | None
    file_id: str | None


@dataclass(frozen=True)
class Part:
    """A part that has arrived. Its bytes are the object `key`."""

    id: str
    upload_id: str
    created_at: int
    size_bytes: int

    @property
    def key(self) -> str:
        """The key of the part's object."""
        return part_key(self.upload_id, self.id)


def part_key(upload_id: str, part_id: str) -> str:
    """The key of the object of a part."""
    return f"{PART_PREFIX}{upload_id}/{part_id}"


def upload_from_row(row: Row[Any]) -> Upload:
    """The upload of a row of the table `uploads`."""
    return Upload(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        status=Status(row.status),
        new_file=NewFile(row.filename, Purpose(row.purpose), row.content_type, row.file_expires_after),
        size_bytes=row.size_bytes,
        request_digest=row.request_digest,
        file_id=row.file_id,
    )


def upload_object(upload: Upload, file: File | None = None) -> dict[str, Any]:
    """OpenAI's object of an upload."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.new_file.filename,
        "purpose": upload.new_file.purpose.value,
        "status": upload.status.value,
        "file": None if file is None else file_object(file),
    }


def part_object(part: Part) -> dict[str, Any]:
    """OpenAI's object of a part."""
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": part.upload_id}
