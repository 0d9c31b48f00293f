"""Ingestion as its consumers do it: the events of the outbox are delivered to the steps, as often as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.outbox import event_from_row
from llmariner.platform.events.tables import events
from llmariner.platform.objects.folder import FolderObjects
from llmariner.platform.vectors import Collection, VectorIndex
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.events import FILE_CREATED, FILE_PARSED, REBUILD_REQUESTED
from llmariner.vector_stores.ingest.index_step import ChunkIndexer
from llmariner.vector_stores.ingest.parse_step import DocumentParser
from llmariner.vector_stores.ingest.rebuild import hand_on_rebuild
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

from ..stored_files import Shelf
from .token_path import DIMENSION, TokenPath

__all__ = ["Ingestion"]


class Ingestion:
    """The steps on the files of one shelf, with a real parser and a real index."""

    def __init__(self, shelf: Shelf, index: VectorIndex, token_path: TokenPath, folder: Path) -> None:
        self.shelf = shelf
        self.index = index
        self.token_path = token_path
        self.database = shelf.database
        self.contents = Files(self.database, FolderObjects(folder / "objects"), FileSettings())
        self.parser = DocumentParser(self.database, self.contents, token_path.client)
        self.indexer = ChunkIndexer(self.database, index, Embedder(token_path.client), slice_chunks=32)
        self._delivered = 0

    def file(self, content: str | bytes, name: str = "a.txt") -> str:
        """The id of a new file with content."""
        owner, data = self.shelf.caller.key_owner, content.encode() if isinstance(content, str) else content
        with self.contents.receive(owner, purpose=Purpose.ASSISTANTS, size_bytes=0, limit_bytes=2**30) as incoming:
            incoming.write(data)
            new = NewFile(name, Purpose.ASSISTANTS, "application/octet-stream")
            return self.contents.save(owner, new, incoming).id

    def store(self, *contents: str | bytes) -> str:
        """The id of a new vector store with files of these contents."""
        return self.shelf.store(*[self.file(content) for content in contents]).id

    def pending(self) -> Sequence[Event]:
        """The events that were not delivered, for the two steps and of rebuilds."""
        ours = events.c.type.in_([FILE_CREATED, FILE_PARSED, REBUILD_REQUESTED])
        query = select(events).where(events.c.sequence > self._delivered, ours).order_by(events.c.sequence)
        with self.database.read() as session:
            rows = session.rows(query)
        self._delivered = max([self._delivered, *(row.sequence for row in rows)])
        return [event_from_row(row) for row in rows]

    def deliver(self, event: Event) -> None:
        """Deliver one event to its step."""
        if event.type == REBUILD_REQUESTED:
            hand_on_rebuild(self.database, event.data["id"])
            return
        step = self.parser if event.type == FILE_CREATED else self.indexer
        step.run(event.data["id"], event.data.get("retry_at"))

    def run(self, *, times: int = 1) -> None:
        """Deliver all events, and those that they cause, each of them so many times."""
        while pending := self.pending():
            for event in pending:
                for _ in range(times):
                    self.deliver(event)

    def row(self, store_id: str) -> Row[Any]:
        """The row of a store's last added file."""
        query = select(vector_store_files).where(vector_store_files.c.vector_store_id == store_id)
        with self.database.read() as session:
            row = session.first(query.order_by(vector_store_files.c.id.desc()))
        assert row is not None
        return row

    def chunks(self, store_id: str) -> Sequence[Row[Any]]:
        """The chunks of a store's files."""
        query = select(vector_store_chunks).where(vector_store_chunks.c.vector_store_id == store_id)
        with self.database.read() as session:
            return session.rows(
                query.order_by(vector_store_chunks.c.vector_store_file_id, vector_store_chunks.c.chunk_index)
            )

    def indexed(self, store_id: str) -> dict[str, int]:
        """How many chunks the index has of each file of a store."""
        collection = Collection(self.shelf.settings.embedding_model, DIMENSION)
        self.index.ensure(collection)
        return dict(self.index.chunk_counts(collection, self.shelf.project_id, store_id))

    def make_due(self, store_id: str) -> None:
        """Let the time pass after which the sweep continues the files of a store."""
        of_store = vector_store_files.c.vector_store_id == store_id
        with self.database.write() as session:
            session.run(update(vector_store_files).where(of_store).values(retry_at=session.now() - 1))
