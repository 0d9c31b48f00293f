"""The first step of ingestion: reads a file, cuts its text into chunks and stores them as rows."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from sqlalchemy import delete

from llmariner.documents.blocks import Block, TextChunk
from llmariner.documents.chunking import chunk
from llmariner.documents.errors import DocumentError, DocumentErrorCode
from llmariner.documents.limits import ParserLimits
from llmariner.documents.parser import extract
from llmariner.errors import NotFound, PermissionDenied, Unavailable
from llmariner.files.file import File
from llmariner.platform.database import Database
from llmariner.tenancy.background_work import authorize
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy
from llmariner.vector_stores.events import FILE_PARSED
from llmariner.vector_stores.inference import InferenceClient, InferencePaused
from llmariner.vector_stores.ingest.claims import MAX_ATTEMPTS, Claim, ClaimLost, acquire, hand_on, working_on
from llmariner.vector_stores.ingest.model_tokens import ModelTokens
from llmariner.vector_stores.ingest.outcomes import fail
from llmariner.vector_stores.tables import vector_store_chunks

__all__ = ["DocumentParser", "FileContents"]

_ROWS_AT_ONCE = 200
_RETRY_SECONDS = 30.0
# A model that wakes in that time is waited for; the parser of a document needs most of a minute.
_WAIT_SECONDS = 20.0
# Of the model's input: its special tokens, and words that were estimated.
_RESERVED_TOKENS = 8
_MIN_TOKENS = 32
_MAX_CHUNKS = 200_000
# Together with the parser's time, less than a claim and than a delivery may take.
_LEARNING_SECONDS = 15.0
_CHUNK_SECONDS = 30.0
_LIMITS = ParserLimits(seconds=40, cpu_seconds=35)


class FileContents(Protocol):
    """The files of projects, as `files.files.Files` has them."""

    def get(self, project_id: str, file_id: str) -> File:
        """One file. NotFound."""

    def read(self, file: File, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Its bytes. NotFound or Unavailable."""


class DocumentParser:
    """Parses and chunks files of vector stores. Blocks; safe in any thread."""

    def __init__(
        self,
        database: Database,
        files: FileContents,
        inference: InferenceClient,
        limits: ParserLimits = _LIMITS,
        *,
        chunk_seconds: float = _CHUNK_SECONDS,
    ) -> None:
        self._database = database
        self._files = files
        self._inference = inference
        self._limits = limits
        self._chunk_seconds = chunk_seconds

    def run(self, row_id: str, event_retry_at: float | None) -> None:
        """Parse one file, unless it was done. Idempotent. Unexpected errors are raised."""
        claim = acquire(self._database, row_id, "parse", event_retry_at)
        if claim is None:
            return
        try:
            with working_on(self._database, claim):
                self._parse(claim)
        except ClaimLost:
            return

    def _parse(self, claim: Claim) -> None:
        if claim.row.attempts > MAX_ATTEMPTS:
            message = f"The file could not be parsed in {MAX_ATTEMPTS} attempts. Split it, or add it in another format."
            fail(self._database, claim, "server_error", message)
            return
        try:
            authorize(self._database, claim.originator)
            tokens = ModelTokens(self._inference, claim.row.embedding_model, claim.originator)
            # First: a file that waits for a budget or a model is not parsed at each attempt.
            tokens.learn([], wait_seconds=_WAIT_SECONDS)
            blocks = self._read(claim)
            self._store(claim, self._chunks(claim, blocks, tokens))
        except DocumentError as error:
            if error.code is DocumentErrorCode.SERVER_ERROR and claim.row.attempts < MAX_ATTEMPTS:
                claim.retry(self._database, error.message)
            else:
                fail(self._database, claim, error.code.value, error.message)
        except PermissionDenied as error:
            fail(self._database, claim, "server_error", error.message)
        except NotFound:
            fail(self._database, claim, "invalid_file", "The file was deleted before it was parsed.")
        except InferencePaused as pause:
            seconds = max(pause.retry_after, _RETRY_SECONDS)
            claim.pause(self._database, code=pause.code, message=pause.message, seconds=seconds)
        except Unavailable as error:
            claim.retry(self._database, error.message)

    def _read(self, claim: Claim) -> list[Block]:
        row = claim.row
        file = self._files.get(row.project_id, row.file_id)
        if file.size_bytes > self._limits.file_bytes:
            limit = self._limits.file_bytes // 2**20
            raise DocumentError.invalid(f"The file has {file.size_bytes} bytes; {limit} MiB are allowed. Split it.")
        with tempfile.NamedTemporaryFile(prefix="document-") as copy:
            # An object outside the store may have grown since.
            for part in self._files.read(file, 0, file.size_bytes):
                copy.write(part)
            copy.flush()
            return extract(Path(copy.name), file.filename, file.content_type, limits=self._limits)

    def _chunks(self, claim: Claim, blocks: list[Block], tokens: ModelTokens) -> Iterator[TextChunk]:
        strategy = ChunkingStrategy.from_text(claim.row.chunking_strategy)
        tokens.learn((block.text for block in blocks), wait_seconds=_WAIT_SECONDS, seconds=_LEARNING_SECONDS)
        size, overlap = strategy.max_chunk_size_tokens, strategy.chunk_overlap_tokens
        if strategy.automatic and tokens.max_tokens is not None:
            size = max(_MIN_TOKENS, min(size, tokens.max_tokens - _RESERVED_TOKENS))
            overlap = min(overlap, size // 2)
        return _within(self._chunk_seconds, chunk(blocks, tokens, size, overlap))

    def _store(self, claim: Claim, chunks: Iterable[TextChunk]) -> None:
        """Store the chunks in place of those of an attempt that did not end, and hand the file on."""
        self._delete_chunks(claim)
        count, remaining = 0, iter(chunks)
        while part := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
            count += len(part)
            if count > _MAX_CHUNKS:
                raise DocumentError.invalid(f"The file has more than {_MAX_CHUNKS} chunks. Split it.")
            with self._database.write() as session:
                claim.check(session)
                session.insert_many_if_absent(vector_store_chunks, [_chunk_row(claim, each) for each in part])
        if not count:
            raise DocumentError.invalid("The file has no text.")
        with self._database.write() as session:
            row = claim.check(session)
            progress = {"step": "embed", "next_chunk": 0, "chunk_count": count, "attempts": 0}
            hand_on(session, row, FILE_PARSED, **progress, error_code=None, error_message=None)

    def _delete_chunks(self, claim: Claim) -> None:
        with self._database.write() as session:
            claim.check(session)
            session.run(delete(vector_store_chunks).where(vector_store_chunks.c.vector_store_file_id == claim.row.id))


def _within(seconds: float, chunks: Iterable[TextChunk]) -> Iterator[TextChunk]:
    """The chunks, as long as making and storing them takes no more than that time. DocumentError."""
    deadline = time.monotonic() + seconds
    for each in chunks:
        if time.monotonic() > deadline:
            raise DocumentError.invalid(f"Cutting the file into chunks takes more than {seconds:g} seconds. Split it.")
        yield each


def _chunk_row(claim: Claim, chunk: TextChunk) -> dict[str, object]:
    row = claim.row
    return {
        "id": f"{row.id}-{chunk.index}",
        "organization_id": row.organization_id,
        "project_id": row.project_id,
        "vector_store_id": row.vector_store_id,
        "vector_store_file_id": row.id,
        "chunk_index": chunk.index,
        "text": chunk.text,
        "tokens": chunk.tokens,
        "page": chunk.page,
        "start_offset": chunk.start,
        "end_offset": chunk.end,
        "headings": json.dumps(chunk.headings),
        "indexed": False,
    }
