"""Events of files."""

from __future__ import annotations

from llmariner.files.file import File
from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox

__all__ = ["CREATED", "DELETED", "add_file_event"]

CREATED = "ai.llmariner.file.created.v1"
DELETED = "ai.llmariner.file.deleted.v1"


def add_file_event(session: WriteSession, type_: str, file: File) -> None:
    """Add an event about a file to the outbox."""
    data = {
        "id": file.id,
        "filename": file.filename,
        "purpose": file.purpose.value,
        "bytes": file.size_bytes,
        "project_id": file.project_id,
        "organization_id": file.organization_id,
    }
    outbox.add(session, type_, f"files/{file.id}", data)
