"""Filters on attributes: the index finds what the filter means, and never a chunk of another tenant."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmariner.platform.vectors import AttributeValue, Comparison, Compound, Filter, VectorIndex

from .filter_semantics import matches
from .vector_chunks import COLLECTION, STORE, chunk, new_tenant, unit_vector

KEYS = ["plain", "with.dot", "with[0]", 'with"quote', "with\\back", "$meta", "tenant", "", "ключ", "a/b~c"]
VALUES: list[AttributeValue] = [
    *("", "a", "ab", "b", "5", "true", "Ä", "ä", "漢", "\U0010ffff", '"', "\\", "'", "\0", "\n", "%", "{x}", "x" * 512),
    *(0, 1, 5, 5.5, -1, -0.0, 1e-300, 1e300, 2**53, 1234567890123),
    *(True, False),
]
FILES = 60
UNIT = unit_vector(0)


@pytest.fixture(scope="module")
def attributes() -> list[dict[str, AttributeValue]]:
    """Those of each file, by its number."""
    source = random.Random(7)
    return [{key: source.choice(VALUES) for key in source.sample(KEYS, source.randrange(6))} for _ in range(FILES)]


@pytest.fixture(scope="module")
def tenants(vectors: VectorIndex, attributes: list[dict[str, AttributeValue]]) -> tuple[str, str]:
    """Two tenants with the same stores, files and attributes; only texts tell them apart."""
    made = new_tenant(), new_tenant()
    for tenant, owner in zip(made, ("mine", "secret"), strict=True):
        chunks = [
            chunk(f"{owner} {number}", file=f"file-{number}", vector=UNIT, attributes=own)
            for number, own in enumerate(attributes)
        ]
        vectors.upsert(COLLECTION, tenant, chunks)
    return made


def found(vectors: VectorIndex, tenant: str, filters: Filter | None) -> list[int]:
    """The numbers of the files that both searches find; fails where a chunk of the other tenant is found."""
    by_vector = vectors.search_vectors(COLLECTION, tenant, [STORE], UNIT, limit=1_000, filters=filters)
    by_text = vectors.search_text(COLLECTION, tenant, [STORE], "mine secret", limit=1_000, filters=filters)
    assert {hit.id for hit in by_vector} == {hit.id for hit in by_text}
    assert all(hit.text.startswith("mine ") for hit in by_vector)
    return sorted(int(hit.file_id.removeprefix("file-")) for hit in by_vector)


values = st.sampled_from(VALUES)
comparisons: st.SearchStrategy[Filter] = st.one_of(
    st.builds(
        Comparison,
        key=st.sampled_from(KEYS),
        operator=st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]),
        value=values,
    ),
    st.builds(
        Comparison,
        key=st.sampled_from(KEYS),
        operator=st.sampled_from(["in", "nin"]),
        value=st.lists(values, max_size=6),
    ),
)
filters = st.recursive(
    comparisons,
    lambda parts: st.builds(Compound, operator=st.sampled_from(["and", "or"]), filters=st.lists(parts, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters)
def test_index_finds_what_a_filter_means(
    wanted: Filter, vectors: VectorIndex, tenants: tuple[str, str], attributes: list[dict[str, AttributeValue]]
) -> None:
    expected = [number for number, own in enumerate(attributes) if matches(wanted, own)]
    assert found(vectors, tenants[0], wanted) == expected


INJECTIONS = [
    '" or tenant != "',
    '") or (tenant != "',
    '"] != "" or tenant != "',
    "' or tenant != '",
    '\\" or tenant != \\"',
    '\\\\" or tenant != "',
    '\0" or tenant != "',
    '" || tenant != "" || "" == "',
    '" or tenant in ["{other}"] or "" == "',
    '"]) or id != "" or (attributes["',
    "{other}",
    "${other}",
    "\n or tenant != ''",
    "％＂ or tenant != ＂",
]


@pytest.mark.parametrize("template", INJECTIONS)
def test_hostile_words_reach_no_other_tenant(vectors: VectorIndex, tenants: tuple[str, str], template: str) -> None:
    word = template.replace("{other}", tenants[1])
    for hostile in (
        Comparison(word, "eq", word),
        Comparison(word, "ne", word),
        Comparison("plain", "gt", word),
        Comparison("plain", "in", [word, 1, True]),
        Comparison(word, "nin", [word]),
        Compound("or", [Comparison("tenant", "ne", word), Comparison(word, "lte", word)]),
        Compound("or", [Comparison("tenant", "eq", tenants[1]), Comparison("id", "ne", "")]),
    ):
        found(vectors, tenants[0], hostile)


@pytest.mark.parametrize("template", INJECTIONS)
def test_hostile_ids_are_refused(vectors: VectorIndex, tenants: tuple[str, str], template: str) -> None:
    word = template.replace("{other}", f"{tenants[1]}!")
    calls: list[tuple[Any, Sequence[Any], dict[str, Any]]] = [
        (vectors.search_vectors, (COLLECTION, word, [STORE], UNIT), {"limit": 9}),
        (vectors.search_vectors, (COLLECTION, tenants[0], [word], UNIT), {"limit": 9}),
        (vectors.search_text, (COLLECTION, tenants[0], [STORE, word], "secret"), {"limit": 9}),
        (vectors.delete_file, (COLLECTION, tenants[0], STORE, word), {}),
        (vectors.delete_store, (COLLECTION, tenants[0], word), {}),
        (vectors.delete_store, (COLLECTION, word, STORE), {}),
        (vectors.set_attributes, (COLLECTION, tenants[0], STORE, word, {}), {}),
        (vectors.chunk_counts, (COLLECTION, tenants[0], word), {}),
    ]
    for method, arguments, options in calls:
        with pytest.raises(ValueError, match="is no id"):
            method(*arguments, **options)
    assert vectors.chunk_counts(COLLECTION, tenants[1], STORE) == {f"file-{number}": 1 for number in range(FILES)}


@pytest.mark.parametrize("query", [*INJECTIONS, "secret", "secret " * 5_000, "mine AND tenant", "\ufeffsecret", "*"])
def test_hostile_query_finds_only_the_tenants_own(vectors: VectorIndex, tenants: tuple[str, str], query: str) -> None:
    hits = vectors.search_text(COLLECTION, tenants[0], [STORE], query, limit=1_000)
    assert all(hit.text.startswith("mine ") for hit in hits)


def test_numbers_as_text_and_bools_are_not_numbers(vectors: VectorIndex) -> None:
    tenant = new_tenant()
    typed: dict[str, AttributeValue] = {"text": "5", "number": 5, "float": 5.0, "bool": True, "one": 1, "word": "true"}
    for key, value in typed.items():
        vectors.upsert(COLLECTION, tenant, [chunk(key, file=f"file-{key}", attributes={"v": value})])

    def keys(value: AttributeValue, operator: Any = "eq") -> set[str]:
        hits = vectors.search_vectors(
            COLLECTION, tenant, [STORE], UNIT, limit=99, filters=Comparison("v", operator, value)
        )
        return {hit.text for hit in hits}

    assert keys("5") == {"text"}
    assert keys(5) == keys(5.0) == {"number", "float"}
    assert keys(True) == {"bool"}
    assert keys(1) == {"one"}
    assert keys("true") == {"word"}
    assert keys(0, "gt") == {"number", "float", "one"}
    assert keys("", "gte") == {"text", "word"}
    assert keys(5, "ne") == set(typed) - {"number", "float"}


def test_filter_at_its_limits_is_answered(vectors: VectorIndex, tenants: tuple[str, str]) -> None:
    deepest: Filter = Comparison("plain", "ne", uuid.uuid4().hex)
    for level in range(31):
        deepest = Compound("or" if level % 2 else "and", [deepest, Comparison("plain", "eq", "never")][: 1 + level % 2])
    assert found(vectors, tenants[0], deepest) == list(range(FILES))
    widest = Comparison("plain", "nin", [f"never {number}" for number in range(2_000)])
    assert found(vectors, tenants[0], widest) == list(range(FILES))


def test_filter_at_its_limits_costs_little_over_many_chunks(vectors: VectorIndex) -> None:
    """Row by row, it would take more than the time that is given here."""
    tenant = new_tenant()
    for start in range(0, 4_000, 1_000):
        chunks = [chunk(str(number), vector=UNIT, attributes={"plain": "x"}) for number in range(start, start + 1_000)]
        vectors.upsert(COLLECTION, tenant, chunks)
    widest = Comparison("plain", "nin", [f"never {number}" for number in range(2_000)])
    deadline = time.monotonic() + 15
    hits = vectors.search_vectors(COLLECTION, tenant, [STORE], UNIT, limit=9, filters=widest, deadline=deadline)
    assert len(hits) == 9
