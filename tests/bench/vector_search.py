"""Vector stores beside bare pymilvus: how fast chunks with given embeddings are indexed, and searches among 100,000.

Both sides have a Milvus Lite of their own with the same schema and the same data. The bare side writes rows and asks for one
hybrid search. The platform's side runs the indexer's step on rows of the database, and the search of vector stores.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sqlalchemy import select, update

from llmariner.files.tables import files
from llmariner.identifiers import new_id
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.vectors import Collection
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.settings import DatabaseSettings
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.tenancy.background_work import Originator
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import Caller
from llmariner.vector_store_settings import VectorStoreSettings
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.ingest.index_step import ChunkIndexer
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.search import VectorStoreSearch
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore
from llmariner.vector_stores.store_files import StoreFiles
from llmariner.vector_stores.stores import VectorStores as VectorStoresOfProjects
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

from .peers.bare_milvus import BareMilvus
from .results import Results
from .run import Bounds, say

OURS, BARE = "vector stores", "bare pymilvus"
CHUNKS = 100_000
CHUNKS_PER_FILE = 1000
DIMENSION = 384
SEARCHES = 20
_WORDS, _WORDS_PER_CHUNK = 20_000, 80
_IDLE_SECONDS = 10.0


class Side(Protocol):
    """One of the two that are compared."""

    def add(self, texts: Sequence[str]) -> float:
        """Index chunks of these texts; returns the seconds that it takes from their embeddings on."""

    def settle(self) -> None:
        """Let the index sort what was written."""

    def search(self, text: str) -> int:
        """Search; returns the number of results."""

    def close(self) -> None:
        """End what was started."""


class GivenVectors(Embedder):
    """Embeddings without a model: those of texts of the benchmark, which begin with their number."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._pool = [[self._random.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(1000)]

    def embed(
        self,
        model: str,
        originator: Originator | None,
        texts: Sequence[str],
        *,
        wait_seconds: float,
        deadline: float | None = None,
    ) -> list[Sequence[float]]:
        """Vectors that differ from text to text."""
        del model, originator, wait_seconds, deadline
        return [self._vector(int(text.partition(" ")[0])) for text in texts]

    def _vector(self, number: int) -> Sequence[float]:
        vector = list(self._pool[number % 1000])
        vector[number // 1000 % DIMENSION] += 1.0
        return vector


class VectorStores:
    """The platform's side: one vector store of one project, in SQLite and the Milvus Lite of standalone mode."""

    def __init__(self, folder: Path, vectors: GivenVectors) -> None:
        self._database = Database(DatabaseSettings(f"sqlite:///{folder}/platform.db"))
        upgrade(self._database)
        owner = ensure_first_owner(self._database)
        self._caller = Caller(owner.user_id, "", owner.organization_id, owner.project_id, None, "member", frozenset())
        settings = VectorStoreSettings()
        self._server = MilvusLiteProcess(folder / "milvus", folder / "milvus.log")
        self._index = MilvusIndex(self._server.settings)
        self._index.ensure(Collection(settings.embedding_model, DIMENSION))
        self._indexer = ChunkIndexer(self._database, self._index, vectors)
        self._search = VectorStoreSearch(self._database, self._index, vectors)
        self._files = StoreFiles(self._database, settings)
        self._store_id = VectorStoresOfProjects(self._database, settings).create(self._caller, NewVectorStore()).id

    def add(self, texts: Sequence[str]) -> float:
        """One file, from its parsed chunks to `completed`."""
        row_id = self._parsed_file(texts)
        began = time.perf_counter()
        self._indexer.run(row_id, None)
        seconds = time.perf_counter() - began
        status = select(vector_store_files.c.status).where(vector_store_files.c.id == row_id)
        with self._database.read() as session:
            assert session.value(status) == "completed"
        return seconds

    def settle(self) -> None:
        """The server of the index does it when it is idle."""
        time.sleep(_IDLE_SECONDS)

    def search(self, text: str) -> int:
        """As the route does it."""
        return len(self._search.search(self._caller, [self._store_id], SearchQuery((text,))).results)

    def close(self) -> None:
        """End the server of the index."""
        self._index.close()
        self._server.close()
        self._database.close()

    def _parsed_file(self, texts: Sequence[str]) -> str:
        """The id of the row of a file, as the first step of ingestion leaves it."""
        owner = self._caller.key_owner
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
        file_id = new_id("file")
        about = {
            "filename": "a.txt",
            "purpose": "assistants",
            "size_bytes": 1,
            "content_type": "text/plain",
            "created_at": 1,
        }
        with self._database.write() as session:
            session.add(files, **place, **about, id=file_id)
        self._files.add(self._caller, self._store_id, NewStoreFile(file_id))
        of_file = vector_store_files.c.file_id == file_id
        with self._database.write() as session:
            parsed = {"step": "embed", "next_chunk": 0, "chunk_count": len(texts)}
            session.run(update(vector_store_files).where(of_file).values(**parsed))
            row = session.first(select(vector_store_files).where(of_file))
            assert row is not None
            place |= {"vector_store_id": self._store_id, "vector_store_file_id": row.id, "headings": "[]"}
            spans = {"tokens": _WORDS_PER_CHUNK, "start_offset": 0, "end_offset": 1}
            chunks = [
                {**place, **spans, "id": f"{row.id}-{number}", "chunk_index": number, "text": text}
                for number, text in enumerate(texts)
            ]
            session.insert_many_if_absent(vector_store_chunks, chunks)
            return str(row.id)


def measure_vector_search(results: Results, folder: Path, bounds: Bounds) -> None:
    """Both sides index every file and answer every search, one after the other."""
    del bounds  # a smaller collection would be another measurement
    vectors = GivenVectors()
    ours = VectorStores(folder, vectors)
    bare = BareMilvus(folder, DIMENSION, lambda texts: vectors.embed("", None, texts, wait_seconds=0))
    sides: list[tuple[str, Side]] = [(OURS, ours), (BARE, bare)]
    try:
        say(f"indexing {CHUNKS} chunks twice")
        for texts in _files(random.Random(2)):
            for name, side in sides:
                results.add("chunks_per_s", name, len(texts) / side.add(texts))
            sides.reverse()
        for _, side in sides:
            side.settle()
        say(f"{SEARCHES} searches")
        _measure_searches(results, sides, random.Random(3))
    finally:
        for _, side in sides:
            side.close()


def _measure_searches(results: Results, sides: list[tuple[str, Side]], source: random.Random) -> None:
    for number in range(SEARCHES + 1):
        text = f"{number} {_text(source, 5)}"
        for name, side in sides:
            began = time.perf_counter()
            assert side.search(text) == 10
            if number:  # the first one loads the collection
                results.add("search_ms", name, 1e3 * (time.perf_counter() - began))
        sides.reverse()


def _files(source: random.Random) -> Iterator[list[str]]:
    for first in range(0, CHUNKS, CHUNKS_PER_FILE):
        yield [f"{first + number} {_text(source, _WORDS_PER_CHUNK)}" for number in range(CHUNKS_PER_FILE)]


def _text(source: random.Random, words: int) -> str:
    """Few words are frequent, as in any language."""
    return " ".join(f"w{int(_WORDS ** source.random())}" for _ in range(words))
