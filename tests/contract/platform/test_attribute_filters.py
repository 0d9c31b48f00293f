"""Expressions in the server of Milvus Lite: column by column, they mean what they mean row by row, at far less work."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema
from milvus_lite.search import filter as milvus_filters

from llmariner.platform.vectors import AttributeValue, Comparison, Compound, Filter
from llmariner.platform.vectors.expressions import encoded_attributes, ids_in, where
from llmariner.standalone.milvus_lite import attribute_filters

from .filter_semantics import matches

Attributes = Mapping[str, AttributeValue]
COLUMNS = ("id", "tenant", "vector_store_id", "file_id")
SCHEMA = CollectionSchema(
    [FieldSchema(name, DataType.VARCHAR, is_primary=name == "id", max_length=128) for name in COLUMNS]
    + [FieldSchema("attributes", DataType.JSON)]
)
KEYS = ["topic", "year", "draft", ""]
VALUES: list[AttributeValue] = ["", "a", "ab", "Ä", "5", "\U0010ffff", 0, 5, 5.5, -1, 1e300, True, False]


def rows(tenant: str, attributes: Sequence[Attributes], store: str = "vs_1") -> list[dict[str, Any]]:
    """Rows as the index has them."""
    return [
        {
            "id": f"{tenant}-{number}",
            "tenant": tenant,
            "vector_store_id": store,
            "file_id": f"f{number}",
            "attributes": orjson.dumps(encoded_attributes(own)).decode(),
        }
        for number, own in enumerate(attributes)
    ]


def some_attributes(source: random.Random, number: int) -> list[Attributes]:
    return [{key: source.choice(VALUES) for key in source.sample(KEYS, source.randrange(4))} for _ in range(number)]


def some_filter(source: random.Random, depth: int = 3) -> Filter:
    if depth and source.random() < 0.6:
        parts = [some_filter(source, depth - 1) for _ in range(source.randrange(4))]
        return Compound(source.choice(["and", "or"]), parts)
    if source.random() < 0.5:
        values = [source.choice(VALUES) for _ in range(source.randrange(6))]
        return Comparison(source.choice(KEYS), source.choice(["in", "nin"]), values)
    operator: Any = source.choice(["eq", "ne", "gt", "gte", "lt", "lte"])
    return Comparison(source.choice(KEYS), operator, source.choice(VALUES))


def chosen(expression: str, stored: list[dict[str, Any]]) -> list[str]:
    """The ids of the rows that an expression matches."""
    table = pa.Table.from_pylist(stored, pa.schema([(name, pa.string()) for name in (*COLUMNS, "attributes")]))
    mask = attribute_filters._evaluate_mask(milvus_filters.compile_filter(expression, SCHEMA), table)
    return [row["id"] for row, is_chosen in zip(stored, mask, strict=True) if is_chosen]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attributes that were parsed, in order. Evaluation row by row is an error."""
    texts: list[str] = []

    def loads(text: str) -> Any:
        texts.append(text)
        return orjson.loads(text)

    original = attribute_filters._original

    def by_columns_alone(compiled: Any, table: Any) -> Any:
        assert compiled.backend != "python", "it is evaluated row by row"
        return original(compiled, table)

    monkeypatch.setattr(attribute_filters, "orjson", type("Orjson", (), {"loads": staticmethod(loads)}))
    monkeypatch.setattr(attribute_filters, "_original", by_columns_alone)
    return texts


def test_columns_give_what_a_filter_means(parsed: list[str]) -> None:
    source = random.Random(3)
    mine, others = some_attributes(source, 40), some_attributes(source, 40)
    stored = [*rows("proj_a", others), *rows("proj_b", mine), *rows("proj_b", others, store="vs_2")]
    for _ in range(150):
        filters = some_filter(source)
        expected = [f"proj_b-{number}" for number, own in enumerate(mine) if matches(filters, own)]
        assert chosen(where("proj_b", vector_store_ids=["vs_1", "vs_3"], filters=filters), stored) == expected, filters
    assert parsed


def test_attributes_are_parsed_once_for_the_tenants_own_rows_however_many_values_are_compared(
    parsed: list[str],
) -> None:
    stored = [*rows("proj_a", [{"topic": "x"}] * 50), *rows("proj_b", [{"topic": "x"}] * 7)]
    filters = Comparison("topic", "nin", [f"never {number}" for number in range(200)])
    assert len(chosen(where("proj_b", vector_store_ids=["vs_1"], filters=filters), stored)) == 7
    assert len(parsed) == 7
    assert chosen(where("proj_c", vector_store_ids=["vs_1"], filters=filters), stored) == []
    assert len(parsed) == 7


def test_an_expression_of_columns_alone_parses_nothing(parsed: list[str]) -> None:
    stored = rows("proj_a", [{"topic": "x"}] * 3)
    assert chosen(ids_in("proj_a", ["proj_a-1", "proj_b-1"]), stored) == ["proj_a-1"]
    assert chosen(where("proj_a", file_id="f2"), stored) == ["proj_a-2"]
    assert chosen(where("proj_a", filters=Compound("and", [])), []) == []
    assert parsed == []


FOREIGN = [
    'attributes["a"]["b"] == 1',
    'attributes[0] == "x"',
    'tenant == "proj_a" and attributes["n_x"] + 1 == 2',
    'tenant == "proj_a" and attributes["s_x"] like "a%"',
    'tenant == "proj_a" and attributes["s_mixed"] == "5"',
]


@pytest.mark.parametrize("expression", FOREIGN)
def test_other_expressions_are_evaluated_as_before(expression: str) -> None:
    stored = rows("proj_a", [{}, {}])
    stored[0]["attributes"] = '{"s_mixed": "5", "n_x": 1, "s_x": "ab", "a": {"b": 1}}'
    stored[1]["attributes"] = '{"s_mixed": 5}'
    table = pa.Table.from_pylist(stored)
    compiled = milvus_filters.compile_filter(expression, SCHEMA)
    expected = attribute_filters._original(compiled, table)
    assert list(attribute_filters._evaluate_mask(compiled, table)) == list(expected)
