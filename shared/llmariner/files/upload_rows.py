"""Rows of uploads: the checks and changes that several operations share, each in the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, delete, select, update

from llmariner.errors import Conflict, NotFound
from llmariner.files.quotas import lock_usage, release_quota
from llmariner.files.tables import upload_parts, uploads
from llmariner.files.upload import Part, Status, Upload, upload_from_row
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.events import outbox

__all__ = [
    "CANCELLED",
    "CLAIM_SECONDS",
    "COMPLETED",
    "CREATED",
    "EXPIRED",
    "add_upload_event",
    "check_pending",
    "end_upload",
    "is_claimed",
    "load_upload",
    "lock_for_end",
    "no_such_upload",
    "parts_of",
]

CREATED = "ai.llmariner.upload.created.v1"
COMPLETED = "ai.llmariner.upload.completed.v1"
CANCELLED = "ai.llmariner.upload.cancelled.v1"
EXPIRED = "ai.llmariner.upload.expired.v1"

CLAIM_SECONDS = 60.0
"""How long the claim of a completion lasts without a renewal: the most that a killed one delays the next."""


def load_upload(session: ReadSession, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """One upload of a project, locked until the transaction ends where `lock` is true. NotFound otherwise."""
    query = select(uploads).where(uploads.c.id == upload_id, uploads.c.project_id == project_id)
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise no_such_upload(upload_id)
    return upload_from_row(row)


def no_such_upload(upload_id: str) -> NotFound:
    """The error of an unknown upload."""
    return NotFound(f"No such upload: '{upload_id[:64]}'. Create one with POST /v1/uploads.", param="upload_id")


def lock_for_end(session: WriteSession, project_id: str, upload_id: str) -> Upload:
    """One upload, locked by a transaction that may end it. NotFound otherwise.

    The project's usage is locked first, as by the transactions that add and delete files.
    """
    upload = load_upload(session, project_id, upload_id)
    lock_usage(session, upload.project_id, upload.organization_id)
    return load_upload(session, project_id, upload_id, lock=True)


def check_pending(session: ReadSession, upload: Upload) -> None:
    """Raises Conflict unless the upload is pending and its time is not over."""
    again = "Create another one with POST /v1/uploads."
    if upload.status is Status.COMPLETED:
        raise _ended(f"The upload is completed: its file is '{upload.file_id}'. {again}", Status.COMPLETED)
    if upload.status is Status.CANCELLED:
        raise _ended(f"The upload was cancelled. {again}", Status.CANCELLED)
    if upload.status is Status.EXPIRED or session.now() >= upload.expires_at:
        minutes = (upload.expires_at - upload.created_at) // 60
        raise _ended(
            f"The upload expired, since it was not completed within {minutes} minutes. {again}", Status.EXPIRED
        )


def is_claimed(now: float) -> ColumnElement[bool]:
    """The condition that a completion has claimed the upload. A claim far in the future is of a clock that was set back."""
    return and_(uploads.c.claimed_until > now, uploads.c.claimed_until <= now + 2 * CLAIM_SECONDS)


def end_upload(session: WriteSession, upload: Upload, status: Status, **values: Any) -> list[str]:
    """End a pending upload that `lock_for_end` returned: free its quota, and delete the rows of its parts.

    Returns the keys of their objects, which the caller deletes once the transaction is committed.
    """
    place = {"project_id": upload.project_id, "organization_id": upload.organization_id}
    release_quota(session, **place, files=1, size_bytes=upload.size_bytes)
    ended = {"status": status, "ended_at": int(session.now()), "claim": None, "claimed_until": None}
    session.run(update(uploads).where(uploads.c.id == upload.id).values(**ended, **values))
    keys = [part.key for part in parts_of(session, upload)]
    session.run(delete(upload_parts).where(upload_parts.c.upload_id == upload.id))
    return keys


def parts_of(session: ReadSession, upload: Upload) -> list[Part]:
    """The parts of an upload that arrived, in the order of their arrival."""
    query = select(upload_parts).where(upload_parts.c.upload_id == upload.id).order_by(upload_parts.c.id)
    return [Part(row.id, row.upload_id, row.created_at, row.size_bytes) for row in session.rows(query)]


def add_upload_event(session: WriteSession, type_: str, upload: Upload, **more: str) -> None:
    """Add an event about an upload to the outbox."""
    data = {
        "id": upload.id,
        "filename": upload.new_file.filename,
        "purpose": upload.new_file.purpose.value,
        "bytes": upload.size_bytes,
        "project_id": upload.project_id,
        "organization_id": upload.organization_id,
        **more,
    }
    outbox.add(session, type_, f"uploads/{upload.id}", data)


def _ended(message: str, status: Status) -> Conflict:
    return Conflict(message, param="upload_id", code=f"upload_{status}")
