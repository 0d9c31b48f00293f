"""The index gets the attributes that files have: one event for all changes of a file until it has them."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from sqlalchemy import Row, func, select, update

from llmariner.errors import RateLimited
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.vectors import Collection, VectorIndex
from llmariner.vector_stores.events import FILE_PARSED, FILE_UPDATED, add_file_event
from llmariner.vector_stores.ingest.claims import hand_on
from llmariner.vector_stores.ingest.rebuild import index_again
from llmariner.vector_stores.rows import lock_live_file
from llmariner.vector_stores.tables import vector_store_files

__all__ = [
    "MAX_CHANGED_FILES",
    "ROUNDS",
    "apply_attributes",
    "ask_for_attributes",
    "check_changed_files",
    "continue_attributes",
]

MAX_CHANGED_FILES = 1000
"""Files of a project whose attributes the index may lack: their chunks are read and written again."""

ROUNDS = 3
"""How often chunks are written again because their file's attributes changed meanwhile; then an event does it."""

_RETRY_AFTER_SECONDS = 5
# After that time the sweep takes an event for lost.
_EVENT_SECONDS = 300.0
_AT_ONCE = 500

_files = vector_store_files.c


def check_changed_files(session: ReadSession, project_id: str) -> None:
    """RateLimited while the index lacks the attributes of MAX_CHANGED_FILES files of a project."""
    changed = select(_files.id).where(_files.project_id == project_id, _files.attributes_changed_at.is_not(None))
    changed = changed.where(_files.deleted_at.is_(None))
    counted = select(func.count()).select_from(changed.limit(MAX_CHANGED_FILES).subquery())
    if int(session.value(counted)) >= MAX_CHANGED_FILES:
        raise RateLimited(
            f"The index waits for new attributes of {MAX_CHANGED_FILES} files of your project. Try again in some seconds.",
            code="too_many_attribute_updates",
            headers={"retry-after": str(_RETRY_AFTER_SECONDS)},
        )


def apply_attributes(database: Database, index: VectorIndex, row_id: str) -> None:
    """Give the chunks of a file in the index the file's current attributes. Idempotent. VectorIndexUnavailable.

    Where they change again and again meanwhile, an event lets another delivery continue.
    """
    for _ in range(ROUNDS):
        with database.read() as session:
            row = lock_live_file(session, row_id)
        if row is not None and row.dimension is not None:
            place = (Collection(row.embedding_model, row.dimension), row.project_id, row.vector_store_id, row.id)
            index.set_attributes(*place, json.loads(row.attributes))
            with database.read() as session:
                current = lock_live_file(session, row_id)
            if current is None or current.dimension != row.dimension:
                index.delete_file(*place)  # writing the chunks again may have brought some back
        if database.transact(partial(_note_applied, row_id=row_id, applied=row)):
            return
    database.transact(partial(_write_event, row_id=row_id))


def continue_attributes(database: Database, *, until: float) -> int:
    """Write events for files whose event was lost; returns the number. For the sweep. It ends at `until` (monotonic)."""
    with database.read() as session:
        lost = _files.attributes_changed_at <= session.now() - _EVENT_SECONDS
        turn = func.row_number().over(partition_by=_files.project_id, order_by=_files.attributes_changed_at)
        query = select(_files.id).where(lost).order_by(turn, _files.id).limit(_AT_ONCE)
        ids = [row.id for row in session.rows(query)]
    continued = 0
    for row_id in ids:
        if time.monotonic() > until:
            break
        continued += database.transact(partial(_write_event, row_id=row_id))
    return continued


def ask_for_attributes(session: WriteSession, row: Row[Any]) -> None:
    """Write the event by which the index gets the attributes of a file. `row`: locked by the transaction."""
    changed_at = {"attributes_changed_at": session.now()}
    session.run(update(vector_store_files).where(_files.id == row.id).values(**changed_at))
    add_file_event(session, FILE_UPDATED, row)


def _note_applied(session: WriteSession, row_id: str, applied: Row[Any] | None) -> bool:
    """Whether the file still has the attributes of `applied`, its row before, or is gone; then no event is due."""
    row = lock_live_file(session, row_id)
    if row is not None and applied is not None:
        _embed_again(session, applied, row)
    if row is not None and (applied is None or row.attributes != applied.attributes):
        return False
    session.run(update(vector_store_files).where(_files.id == row_id).values(attributes_changed_at=None))
    return True


def _embed_again(session: WriteSession, before: Row[Any], row: Row[Any]) -> None:
    """Let a rebuild write once more what it wrote while the attributes were applied.

    They are applied by writing chunks again with the vectors that they had, which may be those of before.
    """
    if row.status == "in_progress" and row.rebuild_at is not None:
        is_same = before.status == "in_progress" and before.rebuild_at == row.rebuild_at
        # Who works on the file loses the claim: its vectors may be in the index, but are not noted yet.
        hand_on(session, row, FILE_PARSED, next_chunk=min(before.next_chunk, row.next_chunk) if is_same else 0)
    elif row.rebuild_at is not None and (before.status == "in_progress" or before.rebuild_at != row.rebuild_at):
        index_again(session, row.id, rebuild_at=row.rebuild_at)


def _write_event(session: WriteSession, row_id: str) -> int:
    """Write another event; 1, unless the index has the attributes meanwhile, or the file is gone and needs none."""
    row = lock_live_file(session, row_id)
    if row is None:
        session.run(update(vector_store_files).where(_files.id == row_id).values(attributes_changed_at=None))
    elif row.attributes_changed_at is not None:
        ask_for_attributes(session, row)
        return 1
    return 0
