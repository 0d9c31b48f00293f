"""The contract of the vectors port, on a real server of Milvus Lite."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmariner.platform.vectors import Chunk, Collection, Comparison, Compound, VectorIndex, milvus

from .vector_chunks import COLLECTION, STORE, chunk, new_tenant, unit_vector

ANY = unit_vector(0)


@pytest.fixture
def tenant() -> str:
    return new_tenant()


def texts(hits: list[Any]) -> list[str]:
    return [hit.text for hit in hits]


def test_most_similar_chunks_come_first_with_their_cosine(vectors: VectorIndex, tenant: str) -> None:
    near, far = [3.0, 0.3, *[0.0] * 6], [1.0, 2.0, *[0.0] * 6]
    vectors.upsert(COLLECTION, tenant, [chunk("far", vector=far), chunk("near", vector=near, file="file-2")])

    hits = vectors.search_vectors(COLLECTION, tenant, [STORE], unit_vector(0), limit=5)

    assert texts(hits) == ["near", "far"]
    assert [hit.score for hit in hits] == pytest.approx([3 / math.hypot(3, 0.3), 1 / math.hypot(1, 2)], abs=1e-5)
    assert (hits[0].file_id, hits[0].vector_store_id) == ("file-2", STORE)


def test_best_matches_of_words_come_first_and_others_not_at_all(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(
        COLLECTION,
        tenant,
        [
            chunk("The violin has four strings."),
            chunk("A piano has keys, a violin and a cello have none."),
            chunk("Rain fell."),
        ],
    )

    hits = vectors.search_text(COLLECTION, tenant, [STORE], "VIOLIN strings", limit=5)

    assert texts(hits) == ["The violin has four strings.", "A piano has keys, a violin and a cello have none."]
    assert hits[0].score > hits[1].score > 0


@pytest.mark.parametrize("query", ["", "   ", "\n", "!!!", "\0", "zebra"])
def test_query_without_matching_words_finds_nothing(vectors: VectorIndex, tenant: str, query: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk("The violin has four strings.")])
    assert vectors.search_text(COLLECTION, tenant, [STORE], query, limit=5) == []


def test_limit_bounds_the_hits(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk(f"word {number}") for number in range(7)])
    assert len(vectors.search_vectors(COLLECTION, tenant, [STORE], ANY, limit=3)) == 3
    assert len(vectors.search_text(COLLECTION, tenant, [STORE], "word", limit=3)) == 3


def test_upsert_replaces_chunks_of_the_same_id_whole(vectors: VectorIndex, tenant: str) -> None:
    first = chunk("old", vector=unit_vector(1), attributes={"old": "yes", "both": 1})
    vectors.upsert(COLLECTION, tenant, [first])
    vectors.upsert(
        COLLECTION, tenant, [replace(first, text="new", vector=unit_vector(2), attributes={"both": 2.0, "new": True})]
    )

    (hit,) = vectors.search_vectors(COLLECTION, tenant, [STORE], unit_vector(2), limit=5)

    assert hit.text == "new"
    assert hit.score == pytest.approx(1.0)
    assert vectors.search_text(COLLECTION, tenant, [STORE], "old", limit=5) == []
    assert not found_by(vectors, tenant, Comparison("old", "eq", "yes"))
    assert found_by(vectors, tenant, Comparison("both", "eq", 2))


def found_by(vectors: VectorIndex, tenant: str, filters: Any) -> list[str]:
    return texts(vectors.search_vectors(COLLECTION, tenant, [STORE], ANY, limit=100, filters=filters))


def test_more_chunks_than_one_request_holds_are_all_found(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk(f"many {number}") for number in range(1_300)])
    assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {"file-1": 1_300}


def test_searches_only_the_named_stores(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk(f"text {store}", store=store) for store in ("vs_1", "vs_2", "vs_3")])

    for stores in (["vs_2"], ["vs_1", "vs_3"], []):
        by_vector = vectors.search_vectors(COLLECTION, tenant, stores, ANY, limit=9)
        by_text = vectors.search_text(COLLECTION, tenant, stores, "text", limit=9)
        assert (
            sorted(hit.vector_store_id for hit in by_vector) == sorted(hit.vector_store_id for hit in by_text) == stores
        )


def test_other_tenants_see_and_change_nothing_with_the_same_ids(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk("mine", attributes={"a": 1})])
    other = new_tenant()

    vectors.delete_store(COLLECTION, other, STORE)
    vectors.delete_file(COLLECTION, other, STORE, "file-1")
    vectors.set_attributes(COLLECTION, other, STORE, "file-1", {"a": 2})

    assert vectors.search_vectors(COLLECTION, other, [STORE], ANY, limit=9) == []
    assert vectors.search_text(COLLECTION, other, [STORE], "mine", limit=9) == []
    assert vectors.chunk_counts(COLLECTION, other, STORE) == {}
    assert found_by(vectors, tenant, Comparison("a", "eq", 1)) == ["mine"]


def test_delete_of_a_file_keeps_others_and_can_be_repeated(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(
        COLLECTION,
        tenant,
        [chunk("a", file="file-a"), chunk("b", file="file-b"), chunk("c", file="file-a", store="vs_2")],
    )
    for _ in range(2):
        vectors.delete_file(COLLECTION, tenant, STORE, "file-a")
    assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {"file-b": 1}
    assert vectors.chunk_counts(COLLECTION, tenant, "vs_2") == {"file-a": 1}


def test_delete_of_a_store_keeps_others_and_can_be_repeated(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk("a"), chunk("b"), chunk("c", store="vs_2")])
    for _ in range(2):
        vectors.delete_store(COLLECTION, tenant, STORE)
    assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {}
    assert texts(vectors.search_text(COLLECTION, tenant, [STORE, "vs_2"], "a b c", limit=9)) == ["c"]


def test_deleted_chunks_can_be_inserted_again(vectors: VectorIndex, tenant: str) -> None:
    again = chunk("again")
    for _ in range(2):
        vectors.upsert(COLLECTION, tenant, [again])
        assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {"file-1": 1}
        vectors.delete_file(COLLECTION, tenant, STORE, "file-1")
        assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {}


def test_set_attributes_replaces_those_of_every_chunk_of_the_file(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(
        COLLECTION, tenant, [chunk(f"a{n}", vector=unit_vector(3), attributes={"old": 1}) for n in range(450)]
    )
    vectors.upsert(COLLECTION, tenant, [chunk("other", file="file-2", attributes={"old": 1})])

    vectors.set_attributes(COLLECTION, tenant, STORE, "file-1", {"new": "x"})

    counts = vectors.search_vectors(
        COLLECTION, tenant, [STORE], unit_vector(3), limit=1_000, filters=Comparison("new", "eq", "x")
    )
    assert len(counts) == 450
    assert {round(hit.score, 4) for hit in counts} == {1.0}
    assert found_by(vectors, tenant, Comparison("old", "eq", 1)) == ["other"]
    assert texts(vectors.search_text(COLLECTION, tenant, [STORE], "a17", limit=9)) == ["a17"]


def test_collections_of_other_models_and_dimensions_are_apart(vectors: VectorIndex, tenant: str) -> None:
    """Also where a model's id has characters that the name of a collection can't have."""
    hostile = Collection('mödel/"; drop', 8)
    longer = Collection(COLLECTION.model, 16)
    same = chunk("here")
    vectors.upsert(hostile, tenant, [same])
    vectors.upsert(longer, tenant, [replace(same, vector=[1.0] * 16)])

    assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {}
    assert texts(vectors.search_vectors(hostile, tenant, [STORE], ANY, limit=9)) == ["here"]
    assert texts(vectors.search_vectors(longer, tenant, [STORE], [1.0] * 16, limit=9)) == ["here"]


def test_missing_collection_is_like_an_empty_one(vectors: VectorIndex, tenant: str) -> None:
    missing = Collection("test/never-made", 8)
    assert vectors.search_vectors(missing, tenant, [STORE], ANY, limit=9) == []
    assert vectors.search_text(missing, tenant, [STORE], "word", limit=9) == []
    assert vectors.chunk_counts(missing, tenant, STORE) == {}
    vectors.delete_store(missing, tenant, STORE)
    vectors.delete_file(missing, tenant, STORE, "file-1")
    vectors.set_attributes(missing, tenant, STORE, "file-1", {"a": 1})


def test_ensure_can_be_repeated(vectors: VectorIndex, tenant: str) -> None:
    collection = Collection("test/ensured", 8)
    for _ in range(2):
        vectors.ensure(collection)
    assert vectors.search_text(collection, tenant, [STORE], "word", limit=9) == []


def test_text_comes_back_as_it_was(vectors: VectorIndex, tenant: str) -> None:
    """Also with NUL, quotes, right-to-left marks and emoji, and at the limit of 65,535 bytes."""
    for text in ("a\0b", "'\"\\ \r\n\t", "\u202eabc\u2066", "👩‍👩‍👧 Straße 漢字", "x " * 32_767 + "x"):
        vectors.upsert(COLLECTION, tenant, [chunk(text, vector=unit_vector(4), id_="vsf_text-0")])
        assert texts(vectors.search_vectors(COLLECTION, tenant, [STORE], unit_vector(4), limit=1)) == [text]


INVALID: list[tuple[str, Callable[[], Chunk]]] = [
    ("a vector that is too short", lambda: chunk(vector=[1.0] * 7)),
    ("a vector that is too long", lambda: chunk(vector=[1.0] * 9)),
    ("NaN", lambda: chunk(vector=[math.nan, *[1.0] * 7])),
    ("infinity", lambda: chunk(vector=[math.inf, *[1.0] * 7])),
    ("a number over 32 bits", lambda: chunk(vector=[1e300, *[1.0] * 7])),
    ("a text over the limit", lambda: chunk("ä" * 32_768)),
    ("half a surrogate pair", lambda: chunk("\ud800")),
    ("a file id with a quote", lambda: chunk(file='f" or tenant != "')),
    ("a store id with a space", lambda: chunk(store="vs 1")),
    ("an empty id of a file", lambda: chunk(file="")),
    ("an id over 64 characters", lambda: chunk(id_="x" * 65)),
    ("an id that is not ASCII", lambda: chunk(id_="vsf_ä")),
    ("an infinite attribute", lambda: chunk(attributes={"a": math.inf})),
]


@pytest.mark.parametrize(("case", "make"), INVALID, ids=[case for case, _ in INVALID])
def test_invalid_chunk_is_refused_before_any_is_written(
    vectors: VectorIndex, tenant: str, case: str, make: Callable[[], Chunk]
) -> None:
    with pytest.raises(ValueError):
        vectors.upsert(COLLECTION, tenant, [chunk("valid"), make()])
    assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {}, case


@pytest.mark.parametrize("limit", [0, -1, 16_385])
def test_limit_out_of_range_is_refused(vectors: VectorIndex, tenant: str, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        vectors.search_vectors(COLLECTION, tenant, [STORE], ANY, limit=limit)
    with pytest.raises(ValueError, match="limit"):
        vectors.search_text(COLLECTION, tenant, [STORE], "word", limit=limit)


def test_zero_vector_has_a_score(vectors: VectorIndex, tenant: str) -> None:
    """Its cosine is not defined; an engine may answer one for an empty text."""
    vectors.upsert(COLLECTION, tenant, [chunk("zero", vector=[0.0] * 8), chunk("one", vector=unit_vector(0))])
    assert vectors.search_vectors(COLLECTION, tenant, [STORE], unit_vector(0), limit=9)[0].text == "one"
    for hit in vectors.search_vectors(COLLECTION, tenant, [STORE], [0.0] * 8, limit=9):
        assert math.isfinite(hit.score)


def test_filters_apply_to_both_searches(vectors: VectorIndex, tenant: str) -> None:
    vectors.upsert(
        COLLECTION,
        tenant,
        [
            chunk(f"page {year}", attributes={"year": year, "kind": "draft" if year % 2 else "final"})
            for year in range(10)
        ],
    )
    filters = Compound("and", [Comparison("year", "gte", 5), Comparison("kind", "eq", "final")])
    by_vector = vectors.search_vectors(COLLECTION, tenant, [STORE], ANY, limit=9, filters=filters)
    by_text = vectors.search_text(COLLECTION, tenant, [STORE], "page", limit=9, filters=filters)
    assert sorted(texts(by_vector)) == sorted(texts(by_text)) == ["page 6", "page 8"]


def test_the_chunks_of_a_large_store_are_counted_page_by_page(
    vectors: VectorIndex, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors.upsert(COLLECTION, tenant, [chunk(f"word {number}") for number in range(3_000)])
    vectors.chunk_counts(COLLECTION, tenant, STORE)  # what is imported and cached is not counted
    monkeypatch.setattr(milvus, "_PAGE", 100)
    tracemalloc.start()
    try:
        assert vectors.chunk_counts(COLLECTION, tenant, STORE) == {"file-1": 3_000}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150 * 3_000, f"{peak} bytes"
