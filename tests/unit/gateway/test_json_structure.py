"""The depth and the number of values of a body are checked before it is parsed, in linear time."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS, EMBEDDINGS, Route
from llmariner.gateway.requests.json_structure import _outside_strings, check_structure
from llmariner.gateway.requests.parser import parse

SIZE = 8_000_000
HEAD = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{},"x":'


def repeated(piece: bytes, *, end: bytes = b"1]") -> bytes:
    return b"[" + piece * (SIZE // len(piece)) + end


def _tool(schema: Any) -> bytes:
    return json.dumps({"type": "function", "function": {"name": "f", "parameters": schema}}).encode()


_REFERRING = {"properties": {str(number): {"$ref": f"#/properties/{number + 1}"} for number in range(4900)}}
HEAVY = {
    "brackets in a string": b'"' + b"[{" * (SIZE // 2) + b'"',
    "escaped quotes in a string": b'"' + b'\\"' * (SIZE // 2) + b'"',
    "backslashes in a string": b'"' + b"\\\\" * (SIZE // 2) + b'"',
    "prose": b'"' + b"hello, world [1] " * (SIZE // 17) + b'"',
    "empty arrays": repeated(b"[],"),
    "empty objects": repeated(b"{},"),
    "numbers": repeated(b"1,"),
    "empty strings": repeated(b'"",'),
    "strings of brackets": repeated(b'"[",'),
    "strings and arrays": repeated(b'"[",[],'),
    "deep arrays": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "deep objects": b'{"a":' * (SIZE // 6) + b"1" + b"}" * (SIZE // 6),
    "fields": b"1" + b',"a":1' * (SIZE // 6),
    "few fields": b"1" + b',"a":1' * 100_000,
    "fields of other names": b"1" + b"".join(b',"k%d":1' % number for number in range(400_000)),
    "fields of other names within": b'{"":1' + b"".join(b',"k%d":1' % number for number in range(400_000)) + b"}",
    "colons in a string": b'"' + b": " * (SIZE // 2) + b'"',
    "schemas": b'1,"tools":[' + b",".join([_tool(_REFERRING)] * 9) + b"]",
    "long references": b'1,"tools":[' + _tool({"allOf": [{"$ref": "#/" + "%41/" * 380}] * 4000}) + b"]",
    "schemas in many tools": b'1,"tools":[' + b",".join([_tool({"items": {}})] * 9_000) + b"]",
}


def parse_seconds(route: Route, body: bytes) -> float:
    """CPU seconds until a body is parsed or rejected: the minimum of three runs, since the machine is shared."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(InvalidRequest):
            parse(route, b"", body)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize("what", HEAVY)
def test_eight_megabytes_are_checked_quickly(what: str) -> None:
    body = HEAD + HEAVY[what] + b"}"
    plain = parse_seconds(CHAT_COMPLETIONS, HEAD + b'"' + b"x" * SIZE + b'"}')
    assert parse_seconds(CHAT_COMPLETIONS, body) < 0.1 + 6 * plain


def test_half_a_million_token_ids_are_parsed_quickly() -> None:
    body = b'{"model":"m","input":[' + b"15339," * 400_000 + b"1]}"
    assert parse_seconds(EMBEDDINGS, body) < 0.1


@pytest.mark.parametrize("depth", [100, 101])
def test_too_deep_nesting_is_rejected_with_a_message(depth: int) -> None:
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    )
    if depth == 100:
        assert parse(CHAT_COMPLETIONS, b"", body).body == body
    else:
        with pytest.raises(InvalidRequest) as refused:
            parse(CHAT_COMPLETIONS, b"", body)
        assert refused.value.code == "nesting_too_deep"


@pytest.mark.parametrize(
    "value", ["empty arrays", "empty objects", "numbers", "strings and arrays", "fields of other names within"]
)
def test_too_many_values_are_rejected_with_a_message(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_structure(HEAVY[value])
    assert refused.value.code == "too_many_values"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('"\\[]{},n', max_size=12)
VALUES = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


def structural_bytes(value: Any) -> str:
    """The brackets, commas and colons of a value as JSON, without those in strings."""
    if isinstance(value, list):
        return "[" + ",".join(map(structural_bytes, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(":" + structural_bytes(each) for each in value.values()) + "}"
    return ""


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans())
def test_structural_characters_are_distinguished_from_strings(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert _outside_strings(body).decode() == structural_bytes(value)
