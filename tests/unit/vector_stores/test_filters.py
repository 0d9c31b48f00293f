"""OpenAI's filters: what is parsed to what, and what is refused with the name of the invalid part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest
from llmariner.platform.vectors import Comparison, Compound, Filter
from llmariner.platform.vectors.expressions import MAX_COMPARISONS as MOST_OF_THE_INDEX
from llmariner.platform.vectors.expressions import MAX_DEPTH as DEEPEST_OF_THE_INDEX
from llmariner.platform.vectors.expressions import where
from llmariner.vector_stores.filters import MAX_COMPARISONS, MAX_DEPTH, parse_filter

YEAR = {"type": "eq", "key": "year", "value": 2026}


def compared(operator: str, value: Any) -> dict[str, Any]:
    return {"type": operator, "key": "k", "value": value}


def nested(levels: int) -> dict[str, Any]:
    return YEAR if levels == 1 else {"type": "and", "filters": [nested(levels - 1)]}


@pytest.mark.parametrize("operator", ["eq", "ne", "gt", "gte", "lt", "lte"])
@pytest.mark.parametrize("value", ["x", "", 7, -1.5, 2**53])
def test_a_comparison_is_parsed(operator: str, value: Any) -> None:
    assert parse_filter(compared(operator, value)) == Comparison("k", operator, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("operator", ["in", "nin"])
def test_a_list_is_compared_by_in_and_nin(operator: str) -> None:
    assert parse_filter(compared(operator, ["a", 1, True])) == Comparison("k", operator, ["a", 1, True])  # type: ignore[arg-type]


def test_booleans_are_equal_or_not() -> None:
    assert parse_filter(compared("eq", True)) == Comparison("k", "eq", True)
    assert parse_filter(compared("ne", False)) == Comparison("k", "ne", False)


def test_compounds_may_be_nested() -> None:
    sent = {"type": "or", "filters": [YEAR, {"type": "and", "filters": [YEAR, compared("gt", 1)]}]}
    year = Comparison("year", "eq", 2026)
    assert parse_filter(sent) == Compound("or", [year, Compound("and", [year, Comparison("k", "gt", 1)])])


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (None, "filters"),
        ([], "filters"),
        ("x", "filters"),
        ({}, "filters.type"),
        ({"type": "like", "key": "k", "value": "x"}, "filters.type"),
        ({"type": ["eq"], "key": "k", "value": "x"}, "filters.type"),
        ({"type": "eq", "value": "x"}, "filters.key"),
        ({"type": "eq", "key": 7, "value": "x"}, "filters.key"),
        ({"type": "eq", "key": "", "value": "x"}, "filters.key"),
        ({"type": "eq", "key": "k" * 65, "value": "x"}, "filters.key"),
        ({"type": "eq", "key": "k"}, "filters.value"),
        (compared("eq", None), "filters.value"),
        (compared("eq", ["x"]), "filters.value"),
        (compared("eq", {}), "filters.value"),
        (compared("eq", "x" * 513), "filters.value"),
        (compared("eq", 2**53 + 1), "filters.value"),
        (compared("eq", float("inf")), "filters.value"),
        (compared("eq", float("nan")), "filters.value"),
        (compared("gt", True), "filters.value"),
        (compared("in", "x"), "filters.value"),
        (compared("in", []), "filters.value"),
        (compared("in", ["x", None]), "filters.value[1]"),
        (compared("in", ["x", ["y"]]), "filters.value[1]"),
        ({**YEAR, "filters": []}, "filters.filters"),
        ({"type": "and"}, "filters.filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and", "filters": {}}, "filters.filters"),
        ({"type": "or", "filters": [YEAR, compared("gt", None)]}, "filters.filters[1].value"),
        ({"type": "or", "filters": [YEAR], "key": "k"}, "filters.key"),
    ],
)
def test_an_invalid_filter_is_refused(sent: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        parse_filter(sent)
    assert failed.value.param == param


def test_depth_and_number_are_bounded() -> None:
    assert parse_filter(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="levels"):
        parse_filter(nested(MAX_DEPTH + 1))
    most = {"type": "and", "filters": [YEAR] * MAX_COMPARISONS}
    assert parse_filter(most)
    for sent in (
        {"type": "and", "filters": [YEAR] * (MAX_COMPARISONS + 1)},
        {"type": "or", "filters": [most, YEAR]},
        {"type": "or", "filters": [{"type": "and", "filters": [YEAR] * 150}] * 2},
        compared("in", ["x"] * (MAX_COMPARISONS + 1)),
        {"type": "or", "filters": [compared("in", ["x"] * MAX_COMPARISONS), YEAR]},
    ):
        with pytest.raises(InvalidRequest, match="values at most"):
            parse_filter(sent)


def test_the_index_accepts_the_largest_filter() -> None:
    assert MAX_COMPARISONS <= MOST_OF_THE_INDEX
    assert MAX_DEPTH <= DEEPEST_OF_THE_INDEX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "key", "value", "filters"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)
SCALARS = st.text(max_size=9) | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
COMPARISONS = st.fixed_dictionaries(
    {"type": st.sampled_from(["eq", "ne"]), "key": st.text(min_size=1, max_size=9), "value": SCALARS}
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=8,
)


def parsed_or_error(sent: Any) -> Filter | InvalidRequest:
    try:
        return parse_filter(sent)
    except InvalidRequest as error:
        return error


@given(JSON)
def test_any_json_is_parsed_or_refused(sent: Any) -> None:
    refused = parsed_or_error(sent)
    assert not isinstance(refused, InvalidRequest) or refused.param


@given(FILTERS)
def test_the_index_accepts_what_is_parsed(sent: Any) -> None:
    found = parsed_or_error(sent)
    if isinstance(found, InvalidRequest):
        assert "levels" in found.message
    else:
        assert where("proj_1", filters=found)
