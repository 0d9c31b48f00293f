"""Quotas of a project: the number and the bytes of its files. Files that share their content count each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import InsufficientQuota
from llmariner.file_settings import FileSettings
from llmariner.files.tables import file_usage
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["check_quota", "lock_usage", "release_quota", "reserve_quota"]


def check_quota(session: ReadSession, settings: FileSettings, project_id: str, *, size_bytes: int) -> None:
    """Raises InsufficientQuota for one more file of that size. Nothing is reserved: it spares a transfer in vain."""
    row = session.first(select(file_usage).where(file_usage.c.project_id == project_id))
    files, used = (row.files, row.bytes) if row else (0, 0)
    _check(settings, files + 1, used + size_bytes)


def lock_usage(session: WriteSession, project_id: str, organization_id: str) -> None:
    """Lock the project's usage until the transaction ends; the first statement of a transaction that changes files."""
    _change(session, project_id, organization_id, 0, 0)


def reserve_quota(
    session: WriteSession,
    settings: FileSettings,
    *,
    project_id: str,
    organization_id: str,
    files: int,
    size_bytes: int,
) -> None:
    """Count more files and bytes, and lock as `lock_usage`. Raises InsufficientQuota, which must end the transaction."""
    row = _change(session, project_id, organization_id, files, size_bytes)
    _check(settings, row.files, row.bytes)


def release_quota(session: WriteSession, *, project_id: str, organization_id: str, files: int, size_bytes: int) -> None:
    """Count fewer files and bytes, and lock as `lock_usage`."""
    _change(session, project_id, organization_id, -files, -size_bytes)


def _change(session: WriteSession, project_id: str, organization_id: str, files: int, size_bytes: int) -> Row[Any]:
    blank = {"project_id": project_id, "organization_id": organization_id, "files": 0, "bytes": 0}
    session.insert_if_absent(file_usage, [blank])
    changed = (
        update(file_usage)
        .where(file_usage.c.project_id == project_id)
        .values(files=file_usage.c.files + files, bytes=file_usage.c.bytes + size_bytes)
        .returning(file_usage.c.files, file_usage.c.bytes)
    )
    return session.rows(changed)[0]


def _check(settings: FileSettings, files: int, size_bytes: int) -> None:
    if settings.project_files and files > settings.project_files:
        raise _exceeded(f"The project has {settings.project_files} files, its maximum")
    if settings.project_bytes and size_bytes > settings.project_bytes:
        raise _exceeded(f"The files of the project may have {settings.project_bytes} bytes together")


def _exceeded(limit: str) -> InsufficientQuota:
    # The OpenAI SDKs retry a 429 without this header.
    return InsufficientQuota(
        f"{limit}. Delete files that nobody needs (DELETE /v1/files/{{id}}), or ask an operator for more.",
        code="storage_quota_exceeded",
        headers={"x-should-retry": "false"},
    )
