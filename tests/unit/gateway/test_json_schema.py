"""Circular schemas are rejected before they wake a model; all others pass."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmariner.errors import InvalidRequest
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS, COMPLETIONS, Route
from llmariner.gateway.requests.json_schema import check_schema
from llmariner.gateway.requests.parser import parse

SELF = {"$ref": "#"}
A = {"$ref": "#/$defs/a"}
B = {"$ref": "#/$defs/b"}
ENDLESS: dict[str, Any] = {
    "itself": SELF,
    "with a type beside": {"type": "string", **SELF},
    "each other": {**A, "$defs": {"a": B, "b": A}},
    "within a property": {"type": "object", "properties": {"x": A}, "$defs": {"a": A}},
    "within items": {"type": "array", "items": {"$ref": "#/items"}},
    "all of": {"allOf": [{"type": "object"}, SELF]},
    "any of itself alone": {"anyOf": [SELF, {"oneOf": [SELF]}]},
    "an escaped name": {"$ref": "#/definitions/a~1b%25", "definitions": {"a/b%": {"$ref": "#/definitions/a~1b%25"}}},
    "a property of that name": {"properties": {"$ref": SELF, "default": {"$ref": "#/properties/default"}}},
    "within a list": {"prefixItems": [{"$ref": "#/prefixItems/0"}]},
}
FINE: dict[str, Any] = {
    "a tree": {"type": "object", "properties": {"children": {"type": "array", "items": SELF}}},
    "a list that may end": {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, SELF]}}},
    "an alternative": {"anyOf": [{"type": "string"}, SELF]},
    "a definition that nobody uses": {"type": "string", "$defs": {"a": A}},
    "values that look like references": {"const": SELF, "enum": [SELF], "default": SELF, "examples": [SELF]},
    "another document": {"$ref": "https://example.org/schema.json"},
    "nothing there": {"$ref": "#/$defs/nothing/0/x"},
    "no schema": {"$ref": 7, "allOf": 7, "anyOf": [], "oneOf": [True], "items": [True], "properties": []},
    "a chain": {**A, "$defs": {"a": B, "b": {"type": "string"}}},
    "true": True,
    "none": None,
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_circular_schema_is_rejected(what: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(ENDLESS[what], "here")
    assert (refused.value.param, refused.value.code) == ("here", "invalid_json_schema")


@pytest.mark.parametrize("what", FINE)
def test_any_other_schema_is_accepted(what: str) -> None:
    check_schema(FINE[what], "here")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SELF}},
            "response_format.json_schema.schema",
        ),
        ("structured_outputs", {"json": SELF}, "structured_outputs.json"),
        ("guided_json", SELF, "guided_json"),
        (
            "tools",
            [{"type": "function", "function": {"name": "f", "parameters": SELF}}],
            "tools[0].function.parameters",
        ),
    ],
)
@pytest.mark.parametrize("route", [CHAT_COMPLETIONS, COMPLETIONS], ids=["chat", "completions"])
def test_schemas_are_found_in_every_field_of_a_request(route: Route, field: str, value: Any, param: str) -> None:
    if field == "tools" and route is COMPLETIONS:
        return
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", field: value}
    with pytest.raises(InvalidRequest) as refused:
        parse(route, b"", json.dumps({name: body[name] for name in body if name in route.checks}).encode())
    assert refused.value.param == param


def test_large_schemas_are_checked_in_linear_time() -> None:
    chain = {str(index): {"$ref": f"#/$defs/{index + 1}"} for index in range(4000)}
    wide = {"allOf": [{"anyOf": [SELF, A]} for _ in range(10_000)], "$defs": {"a": {"type": "string"}}}
    huge = {"properties": {str(index): {"$ref": "#"} for index in range(100_000)}}
    for schema in ({"$ref": "#/$defs/0", "$defs": chain}, wide, huge):
        began = time.thread_time()
        check_schema(schema, "here")
        assert time.thread_time() - began < 10, "squares of these sizes take minutes"
