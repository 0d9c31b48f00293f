"""The end of a file's ingestion: completed, or failed with one of OpenAI's codes."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select

from llmariner.platform.database import Database, ReadSession
from llmariner.vector_stores.events import FILE_COMPLETED, FILE_FAILED, add_file_event
from llmariner.vector_stores.ingest.claims import Claim
from llmariner.vector_stores.tables import vector_store_chunks

__all__ = ["ErrorCode", "complete", "fail"]

ErrorCode = Literal["server_error", "unsupported_file", "invalid_file"]
_MAX_MESSAGE = 1000
_PAGE = 500
_FLOAT_BYTES = 4


def fail(database: Database, claim: Claim, code: ErrorCode, message: str) -> None:
    """End the ingestion of a file with an error. The sweep removes what there is of its chunks. ClaimLost."""
    said = {"error_code": code, "error_message": message[:_MAX_MESSAGE]}
    with database.write() as session:
        row = claim.store(session, status="failed", retry_at=None, **said)
        add_file_event(session, FILE_FAILED, row, **said)


def complete(database: Database, claim: Claim, *, dimension: int) -> None:
    """End the ingestion of a file all of whose chunks are in the index. ClaimLost."""
    with database.read() as session:
        text_bytes = _text_bytes(session, claim.row.id)
    with database.write() as session:
        row = claim.check(session)
        usage_bytes = text_bytes + (row.chunk_count or 0) * dimension * _FLOAT_BYTES
        ended = {"status": "completed", "step": "done", "retry_at": None, "attempts": 0, "usage_bytes": usage_bytes}
        completed_at = row.completed_at or int(session.now())
        claim.store(session, error_code=None, error_message=None, completed_at=completed_at, **ended)
        add_file_event(session, FILE_COMPLETED, row, usage_bytes=usage_bytes, chunk_count=row.chunk_count)


def _text_bytes(session: ReadSession, row_id: str) -> int:
    """The bytes of all chunks of a file in UTF-8."""
    chunks, total, after = vector_store_chunks.c, 0, -1
    query = select(chunks.chunk_index, chunks.text).where(chunks.vector_store_file_id == row_id)
    while True:
        page = query.where(chunks.chunk_index > after).order_by(chunks.chunk_index).limit(_PAGE)
        rows = session.rows(page)
        total += sum(len(row.text.encode()) for row in rows)
        if len(rows) < _PAGE:
            return total
        after = rows[-1].chunk_index
