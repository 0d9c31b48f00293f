"""Expressions of Milvus: the condition on the tenant stands beside any filter, and no word of a caller is in the text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milvus_lite.search.filter.ast import And, CmpOp, FieldRef, InOp, StringLit
from milvus_lite.search.filter.parser import parse_expr

from llmariner.platform.vectors import Comparison, Compound, Filter
from llmariner.platform.vectors.expressions import (
    MAX_COMPARISONS,
    MAX_DEPTH,
    encoded_attributes,
    ids_in,
    tenant_of,
    where,
)

TENANT = "proj_mine"
# A caller's words can only be in texts of 0-9 A-V, in hashes, and in numbers.
ALLOWED = re.compile(r'(?:"[A-Za-z0-9_]*"|[a-z_]+|[-+]?[0-9.]+(?:e[-+]?[0-9]+)?|==|!=|<=|>=|[<>()\[\], ])*')

HOSTILE = [
    '"',
    "'",
    "\\",
    '\\"',
    '" or tenant != "',
    '"] or tenant != "" or attributes["',
    "') or 1 == 1 or ('",
    "\0",
    "a\0b",
    "\r\n",
    "{value}",
    "$meta",
    "%",
    "_",
    "tenant",
    "a.b",
    "a[0]",
    "/a~1b",
    "true",
    "null",
    "１",
    "\u202e",
    "ä",
    "漢字",
    "👩‍👩‍👧",
    "\U0010ffff",
    "x" * 512,
    "",
]

texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
finite = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70))
values = st.one_of(texts, finite, st.booleans())
comparisons = st.one_of(
    st.builds(Comparison, key=texts, operator=st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), value=values),
    st.builds(Comparison, key=texts, operator=st.sampled_from(["in", "nin"]), value=st.lists(values, max_size=5)),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    comparisons,
    lambda parts: st.builds(Compound, operator=st.sampled_from(["and", "or"]), filters=st.lists(parts, max_size=4)),
    max_leaves=20,
)


def conditions(expression: str) -> list[Any]:
    """The parts that must all hold, as Milvus Lite's own parser reads them."""
    parsed = parse_expr(expression)
    return list(parsed.operands) if isinstance(parsed, And) else [parsed]


@given(filters)
def test_condition_on_the_tenant_stands_beside_any_filter(found: Filter) -> None:
    expression = where(TENANT, vector_store_ids=["vs_1", "vs_2"], filters=found)

    assert ALLOWED.fullmatch(expression)
    tenant, stores, *_ = conditions(expression)
    assert isinstance(tenant, CmpOp)
    assert (tenant.op, tenant.left.name, tenant.right.value) == ("==", "tenant", TENANT)
    assert isinstance(stores, InOp)
    assert [element.value for element in stores.values.elements] == ["vs_1", "vs_2"]
    assert expression.count("tenant") == 1


@pytest.mark.parametrize("word", HOSTILE)
def test_word_of_a_caller_is_not_in_the_text(word: str) -> None:
    expression = where(TENANT, vector_store_ids=["vs_1"], filters=Comparison(word, "eq", word))
    without = where(TENANT, vector_store_ids=["vs_1"], filters=Comparison("k", "eq", "v"))
    assert re.sub(r'"[A-Za-z0-9_]*"', '""', expression) == re.sub(r'"[A-Za-z0-9_]*"', '""', without)


@given(st.lists(texts, min_size=2, max_size=2))
def test_stored_texts_have_the_order_of_their_code_points(pair: list[str]) -> None:
    first, second = (encoded_attributes({"k": text}) for text in pair)
    (one,), (other,) = first.values(), second.values()
    assert isinstance(one, str)
    assert isinstance(other, str)
    assert (one < other, one == other) == (pair[0] < pair[1], pair[0] == pair[1])


def test_types_of_a_value_have_keys_of_their_own() -> None:
    stored = [next(iter(encoded_attributes({"k": value}))) for value in ("1", 1, True)]
    assert len(set(stored)) == 3
    assert next(iter(encoded_attributes({"k": 1.0}))) == stored[1]


@pytest.mark.parametrize(
    "id_", ["", " ", 'a"', "a\\", "a b", "a\0", "ä", "a\n", "x" * 129, "a)", "a]", "a,b", "１", "vs_1\n"]
)
def test_id_with_other_characters_is_refused(id_: str) -> None:
    calls: list[Callable[[], str]] = [
        lambda: where(id_),
        lambda: where(TENANT, vector_store_ids=["vs_1", id_]),
        lambda: where(TENANT, file_id=id_),
        lambda: ids_in(TENANT, [id_]),
        lambda: ids_in(id_, ["a"]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is no id"):
            call()


INVALID = [
    Comparison("k", "eq", math.nan),
    Comparison("k", "lt", math.inf),
    Comparison("k", "eq", 10**400),
    Comparison("k", "eq", "\ud800"),
    Comparison("\udfff", "eq", 1),
    Comparison("k", "eq", ["a"]),
    Comparison("k", "in", "abc"),
    Comparison("k", "in", 5),
    Comparison("k", "in", [["a"]]),  # type: ignore[list-item]
    Comparison("k", "in", [None]),  # type: ignore[list-item]
    Comparison("k", "eq", None),  # type: ignore[arg-type]
    Comparison("k", "eq", b"bytes"),
    Comparison("k", "like", "a"),  # type: ignore[arg-type]
    Comparison("k", "== 1 or tenant !=", "a"),  # type: ignore[arg-type]
    Compound("xor", [Comparison("k", "eq", 1)]),  # type: ignore[arg-type]
    Compound("or tenant != '' or", []),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("found", INVALID, ids=str)
def test_invalid_filter_is_refused(found: Filter) -> None:
    with pytest.raises(ValueError):
        where(TENANT, filters=found)
    with pytest.raises(ValueError):
        where(TENANT, filters=Compound("or", [Comparison("k", "eq", 1), found]))


def nested(levels: int) -> Filter:
    found: Filter = Comparison("k", "eq", 1)
    for level in range(levels - 1):
        found = Compound("and" if level % 2 else "or", [found])
    return found


def test_depth_is_bounded() -> None:
    assert conditions(where(TENANT, filters=nested(MAX_DEPTH)))
    for levels in (MAX_DEPTH + 1, 10 * MAX_DEPTH, 900):
        with pytest.raises(ValueError, match="nested"):
            where(TENANT, filters=nested(levels))


def test_number_of_compared_values_is_bounded() -> None:
    most = list(range(MAX_COMPARISONS))
    for operator in ("in", "nin"):
        assert conditions(where(TENANT, filters=Comparison("k", operator, most)))
    for too_many in (
        Comparison("k", "in", [*most, 1]),
        Compound("or", [Comparison("k", "nin", most), Comparison("k", "eq", 1)]),
        Compound("and", [Comparison("k", "eq", 1)] * (MAX_COMPARISONS + 1)),
    ):
        with pytest.raises(ValueError, match="at most"):
            where(TENANT, filters=too_many)


def test_tenant_of_an_expression_is_found() -> None:
    hostile = Comparison("k", "eq", 'tenant == "proj_other"')
    for expression in (where(TENANT), where(TENANT, filters=hostile), ids_in(TENANT, ["a"])):
        assert tenant_of(expression) == TENANT
    for foreign in ("", 'id == "a"', 'x and tenant == "proj_other"', "tenant == 'proj_other'"):
        assert tenant_of(foreign) == ""


def test_values_of_a_list_are_one_term_per_type_beside_their_comparisons() -> None:
    for count in (1, 200):
        expression = where(TENANT, filters=Comparison("k", "nin", [*map(str, range(count)), 1, 2, True]))
        assert expression.count("exists") == 3
    assert where(TENANT, filters=Comparison("k", "in", ["a"] * 9)) == where(
        TENANT, filters=Comparison("k", "in", ["a"])
    )


def test_file_and_ids_are_conditions_of_their_own() -> None:
    tenant, stores, file = conditions(where(TENANT, vector_store_ids=["vs_1"], file_id="file-1"))
    assert isinstance(stores, InOp)
    assert isinstance(file.left, FieldRef)
    assert isinstance(file.right, StringLit)
    assert (tenant.right.value, file.left.name, file.right.value) == (TENANT, "file_id", "file-1")
