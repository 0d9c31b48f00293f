"""Removal of files from vector stores: by request, or because the file itself is deleted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.files.file import File
from llmariner.files.references import FileUse
from llmariner.files.tables import files
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.vector_stores.events import FILE_DELETED, add_file_event
from llmariner.vector_stores.tables import vector_store_files

__all__ = ["VectorStoreReferences", "remove_files"]

_c = vector_store_files.c


def remove_files(session: WriteSession, rows: Sequence[Row[Any]]) -> None:
    """Remove files, locked rows of `vector_store_files`, from their stores. An event of each lets a consumer clean up."""
    if rows:
        gone = update(vector_store_files).where(_c.id.in_([row.id for row in rows]))
        session.run(gone.values(deleted_at=int(time.time())))
    for row in rows:
        add_file_event(session, FILE_DELETED, row)


class VectorStoreReferences:
    """What vector stores have to do with files of projects: a deleted file leaves its stores (`FileReferences`)."""

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
        """Nothing: a vector store works without the file."""
        return ()

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """Remove the file from every store."""
        # `add_files` holds this lock: a file that is added at the same time is seen below, or its addition fails.
        session.first(select(files.c.id).where(files.c.id == file.id).with_for_update())
        live = select(vector_store_files).where(_c.file_id == file.id, _c.deleted_at.is_(None))
        remove_files(session, session.rows(live.order_by(_c.id).with_for_update()))
