"""Adds files to a vector store, within the caller's transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, or_, select

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.files.tables import files
from llmariner.identifiers import new_id
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.attributes import validate_attributes
from llmariner.vector_stores.events import FILE_CREATED, add_file_event
from llmariner.vector_stores.removals import remove_files
from llmariner.vector_stores.rows import live_files_of
from llmariner.vector_stores.store import FileStatus, NewStoreFile
from llmariner.vector_stores.tables import vector_store_files

__all__ = ["MAX_FILES_AT_ONCE", "add_files"]

MAX_FILES_AT_ONCE = 2000
"""OpenAI's bound of a batch of files."""

_c = vector_store_files.c
_ENDED = (FileStatus.FAILED, FileStatus.CANCELLED)


def add_files(
    session: WriteSession,
    caller: Caller,
    store: Row[Any],
    new: Sequence[NewStoreFile],
    *,
    max_files: int,
    batch_id: str | None = None,
) -> None:
    """Add files of the caller's project to a store that the transaction locked or created; each emits an event.

    A file that is there but failed or was cancelled is started again. InvalidRequest for a file that is given twice or
    invalid attributes, NotFound for an unknown file, Conflict for one that is in the store or beyond `max_files`.
    """
    if not new:
        return
    ids = _distinct([each.file_id for each in new])
    _check_number(session, store.id, len(ids), max_files)
    _lock_files(session, store.project_id, ids)
    _remove_ended(session, store.id, ids)
    rows = [_row(caller, store, each, batch_id) for each in new]
    session.insert_many_if_absent(vector_store_files, rows)
    added = select(_c.id, _c.vector_store_id, _c.file_id, _c.project_id, _c.organization_id)
    for row in session.rows(added.where(live_files_of(store.id), _c.file_id.in_(ids)).order_by(_c.id)):
        add_file_event(session, FILE_CREATED, row, retry_at=None)


def _distinct(ids: list[str]) -> list[str]:
    if len(ids) > MAX_FILES_AT_ONCE:
        raise InvalidRequest(
            f"{MAX_FILES_AT_ONCE} files may be added at once, not {len(ids)}: send several batches.", param="file_ids"
        )
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise InvalidRequest(f"The file '{twice[:64]}' is given twice: send each file once.", param="file_ids")
    return ids


def _check_number(session: ReadSession, store_id: str, more: int, max_files: int) -> None:
    counted = select(func.count()).select_from(vector_store_files)
    number = int(session.value(counted.where(live_files_of(store_id))))
    if number + more > max_files:
        raise Conflict(
            f"The vector store has {number} files and may have {max_files}: remove some, or use another store.",
            code="too_many_files",
        )


def _lock_files(session: ReadSession, project_id: str, ids: list[str]) -> None:
    """Keep the files from being deleted until the transaction ends. NotFound for those that the project does not have."""
    usable = and_(
        files.c.id.in_(ids),
        files.c.project_id == project_id,
        or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time())),
    )
    found = {
        row.id for row in session.rows(select(files.c.id).where(usable).order_by(files.c.id).with_for_update(read=True))
    }
    if missing := [each for each in ids if each not in found]:
        shown = ", ".join(f"'{each[:64]}'" for each in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise NotFound(f"No such file: {shown}{more}. List those of your project with GET /v1/files.", param="file_id")


def _remove_ended(session: WriteSession, store_id: str, ids: list[str]) -> None:
    """Remove the files that failed or were cancelled. Conflict if others are in the store already."""
    there = session.rows(
        select(vector_store_files).where(live_files_of(store_id), _c.file_id.in_(ids)).order_by(_c.id).with_for_update()
    )
    if present := [row.file_id for row in there if row.status not in _ENDED]:
        shown = ", ".join(f"'{each}'" for each in present[:5])
        more = f" and {len(present) - 5} more" if len(present) > 5 else ""
        raise Conflict(
            f"In the vector store already: {shown}{more}. Remove a file first to add it with other options.",
            param="file_id",
            code="file_in_store",
        )
    remove_files(session, there)


def _row(caller: Caller, store: Row[Any], new: NewStoreFile, batch_id: str | None) -> dict[str, Any]:
    return {
        "id": new_id("vsf"),
        "organization_id": store.organization_id,
        "project_id": store.project_id,
        "vector_store_id": store.id,
        "file_id": new.file_id,
        "user_id": caller.user_id,
        "key_id": caller.key_id,
        "batch_id": batch_id,
        "status": FileStatus.IN_PROGRESS.value,
        "attributes": json.dumps(validate_attributes(new.attributes), separators=(",", ":")),
        "chunking_strategy": new.chunking_strategy.to_text(),
        "usage_bytes": 0,
        "step": "parse",
        "next_chunk": 0,
        "attempts": 0,
        "created_at": int(time.time()),
    }
