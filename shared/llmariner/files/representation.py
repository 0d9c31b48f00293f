"""The file object of the API: OpenAI's fields, and LLMariner's `object_store_path`."""

from __future__ import annotations

from typing import Any

from llmariner.files.file import File

__all__ = ["file_object"]


def file_object(file: File) -> dict[str, Any]:
    """The file object. A file has its content, checked, from its first moment, so its status is always `processed`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose.value,
        "status": "processed",
        "status_details": None,
        "object_store_path": file.object_path or "",
    }
