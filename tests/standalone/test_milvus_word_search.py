"""Ranks of a search by words in Milvus Lite: what else is in the index, and in which files, does not change them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from milvus_lite.db import MilvusLite
from milvus_lite.engine.collection import Collection as LiteCollection

from llmariner.platform.vectors import Chunk, Collection, Comparison, Hit
from llmariner.platform.vectors.milvus import MilvusIndex, collection_name
from llmariner.settings import Secret, VectorSettings
from llmariner.standalone.milvus_lite import word_search
from llmariner.standalone.milvus_lite.server import new_gate, new_server

COLLECTION = Collection("test/embedding", 4)
TENANT = "proj_0"
TEXTS = [
    "the red pump moves water",
    "the red valve",
    "the blue pump stands beside the blue lamp of the house",
    "a house",
    "red red red lamp",
    "the lamp",
]


def bucket_of(tenant: str) -> int:
    """Milvus Lite keeps the rows of tenants of one bucket in the same files."""
    return int(hashlib.md5(tenant.encode()).hexdigest(), 16) % 16


NEIGHBOR = next(other for n in range(1, 1000) if bucket_of(other := f"proj_{n}") == bucket_of(TENANT))


class Index:
    """An index in this process, with `flush`, which moves what was written to a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.database = MilvusLite(str(folder))
        self.server = new_server(self.database, new_gate(self.database, "token"))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        settings = VectorSettings(f"http://127.0.0.1:{port}", token=Secret("token"), index_type="FLAT")
        self.client = MilvusIndex(lambda _seconds: settings)
        self.client.ensure(COLLECTION)
        self.case = 0

    @property
    def store(self) -> str:
        """The store of this test."""
        return f"vs_{self.case}"

    def write(self, texts: Sequence[str], *, tenant: str = TENANT, store: str = "", first: int = 0) -> None:
        """Chunks with ids by their position, from `first` on."""
        store = store or self.store
        chunks = [Chunk(f"{store}-{first + n}", store, "f", text, [1, 0, 0, 0], {}) for n, text in enumerate(texts)]
        self.client.upsert(COLLECTION, tenant, chunks)

    def flush(self) -> None:
        """Move what is in memory to a file."""
        self.database.get_collection(collection_name(COLLECTION)).flush()

    def search(self, query: str, *, limit: int = 10) -> list[tuple[str, float]]:
        """Texts and scores."""
        hits: list[Hit] = self.client.search_text(COLLECTION, TENANT, [self.store], query, limit=limit)
        return [(hit.text, round(hit.score, 5)) for hit in hits]

    def close(self) -> None:
        """Stop it."""
        self.client.close()
        self.server.stop(0).wait()
        self.database.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with pytest.MonkeyPatch.context() as patch:
        # Restored afterwards: other tests of this process use Milvus Lite as it is.
        patch.setattr(LiteCollection, "_search_sparse", LiteCollection._search_sparse)
        word_search.install()
        made = Index(tmp_path_factory.mktemp("milvus"))
        yield made
        made.close()


@pytest.fixture
def index(server: Index) -> Index:
    server.case += 1
    return server


def in_memory(index: Index) -> None:
    index.write(TEXTS)


def in_one_file(index: Index) -> None:
    index.write(TEXTS)
    index.flush()


def in_three_files_and_memory(index: Index) -> None:
    for first in range(3):
        index.write([TEXTS[first]], first=first)
        index.flush()
    index.write(TEXTS[3:], first=3)


def backwards(index: Index) -> None:
    for first in reversed(range(len(TEXTS))):
        index.write([TEXTS[first]], first=first)
        if first == 4:
            index.flush()


def over_older_versions(index: Index) -> None:
    index.write(["pump pump pump lamp"] * len(TEXTS))
    index.client.upsert(
        COLLECTION, TENANT, [Chunk(f"{index.store}-9", index.store, "gone", "red pump", [1, 0, 0, 0], {})]
    )
    index.flush()
    index.write(["red red", "red"])
    index.write(TEXTS[:3])
    index.flush()
    index.write(TEXTS[3:], first=3)
    index.client.delete_file(COLLECTION, TENANT, index.store, "gone")


def beside_others(index: Index) -> None:
    index.write(["pump pump"] * 20, tenant=NEIGHBOR, store="vs_theirs")
    index.write(["red red house"] * 20, store="vs_of_mine")
    index.write(TEXTS[:3])
    index.flush()
    index.write(["lamp"] * 20, tenant=NEIGHBOR, store="vs_theirs", first=50)
    index.write(TEXTS[3:], first=3)


def expected(query: str) -> list[tuple[str, float]]:
    """BM25 (k1 1.5, b 0.75) of TEXTS alone, best first."""
    rows = [text.split() for text in TEXTS]
    average = sum(map(len, rows)) / len(rows)
    scores = []
    for text, words in zip(TEXTS, rows, strict=True):
        score = 0.0
        for word in query.split():
            having, times = sum(word in other for other in rows), words.count(word)
            rarity = math.log(1 + (len(rows) - having + 0.5) / (having + 0.5))
            score += rarity * times * 2.5 / (times + 1.5 * (0.25 + 0.75 * len(words) / average))
        scores.append((text, round(score, 5)))
    return sorted([each for each in scores if each[1]], key=lambda each: -each[1])


@pytest.mark.parametrize(
    "written", [in_memory, in_one_file, in_three_files_and_memory, backwards, beside_others, over_older_versions]
)
def test_scores_depend_on_what_is_searched_alone(index: Index, written: Callable[[Index], None]) -> None:
    written(index)
    found = expected("red pump lamp")
    assert len(found) == 5
    assert index.search("red pump lamp") == found
    assert index.search("red pump lamp", limit=2) == found[:2]


def test_equal_scores_are_in_the_order_of_ids(index: Index) -> None:
    for first in (2, 0, 1):
        index.write([f"lamp {first}"], first=first)
        index.flush()
    assert [text for text, _ in index.search("lamp")] == ["lamp 0", "lamp 1", "lamp 2"]


def test_a_filter_means_the_same_in_memory_and_in_a_file(index: Index) -> None:
    for number in range(3):
        chunk = Chunk(f"{index.store}-{number}", index.store, "f", f"lamp {number}", [1, 0, 0, 0], {"n": number})
        index.client.upsert(COLLECTION, TENANT, [chunk])
    for _ in range(2):
        for filters, expected in (
            (Comparison("n", "nin", [0, 2, "1"]), ["lamp 1"]),
            (Comparison("n", "gte", 1), ["lamp 1", "lamp 2"]),
            (Comparison("m", "eq", 1), []),
        ):
            hits = index.client.search_text(COLLECTION, TENANT, [index.store], "lamp", limit=9, filters=filters)
            assert [hit.text for hit in hits] == expected
        index.flush()
