"""Request bodies of the token path are validated, and forwarded unchanged but for `stream_options`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, TOKENIZE, Route, check_fields
from llmariner.gateway.requests.parser import ModelRequest, parse

JSON = b"application/json"
ON = {"include_usage": True, "continuous_usage_stats": True}
ON_BYTES = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
HEAD = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]'


def chat(rest: bytes) -> ModelRequest:
    """Parse a chat request with these further members."""
    return parse(CHAT_COMPLETIONS, JSON, HEAD + rest + b"}")


FIELDS = [
    "model",
    "stream",
    "include_usage",
    "continuous_usage",
    "body",
    "max_prompt_tokens",
    "max_completion_tokens",
    "prompt_count",
    "choice_count",
    "prompt_unbounded",
    "tool_count",
    "file_search",
]


def values(request: ModelRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in FIELDS}


def test_a_non_streamed_body_is_forwarded_unchanged() -> None:
    body = HEAD + b' ,\n\t"temperature":1.10, "x": 1e2 } \n'
    request = parse(CHAT_COMPLETIONS, JSON, body)
    plain = {"stream": False, "include_usage": False, "continuous_usage": False, "file_search": False}
    counts = {"prompt_count": 1, "choice_count": 1, "tool_count": 0, "prompt_unbounded": False}
    bounds = {"max_prompt_tokens": len(body), "max_completion_tokens": None}
    assert values(request) == {"model": "m", "body": body, **plain, **counts, **bounds}


@pytest.mark.parametrize(
    ("route", "fields", "answer"),
    [
        (CHAT_COMPLETIONS, {}, None),
        (CHAT_COMPLETIONS, {"max_tokens": 7}, 7),
        (CHAT_COMPLETIONS, {"max_tokens": 5, "max_completion_tokens": 5, "n": 3}, 15),
        (COMPLETIONS, {"prompt": "x"}, 16),
        (COMPLETIONS, {"prompt": ["x", "y"], "max_tokens": 10, "n": 2}, 40),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 10, "best_of": 4}, 40),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 10}, 20),
        (EMBEDDINGS, {"input": "x", "max_tokens": 9, "n": 3}, 0),
    ],
)
def test_the_requested_maximum_bounds_a_response(route: Route, fields: dict[str, object], answer: int | None) -> None:
    messages = {"messages": [{"role": "user", "content": "hi"}]} if route is CHAT_COMPLETIONS else {}
    body = json.dumps({"model": "m", **messages, **fields}).encode()
    request = parse(route, JSON, body)
    assert (request.max_prompt_tokens, request.max_completion_tokens) == (len(body), answer)


def test_a_stream_requests_usage_and_keeps_every_byte() -> None:
    rest = b' ,\n\t"temperature":1.10, "x": 1e2, "stream" : true'
    request = chat(rest + b" \n")
    assert request.body == HEAD + rest + b"," + ON_BYTES + b"}"
    assert (request.stream, request.include_usage, request.continuous_usage) == (True, False, False)


@pytest.mark.parametrize("end", [b"", b" ", b"\n\n", b"\t\r\n"])
def test_surrounding_whitespace_is_accepted(end: bytes) -> None:
    body = end + HEAD + b',"stream":true' + end + b"}" + end
    assert json.loads(parse(CHAT_COMPLETIONS, JSON, body).body)["stream_options"] == ON


OPTIONS: list[tuple[bytes, bool, bool]] = [
    (b"null", False, False),
    (b"{}", False, False),
    (b'{"include_usage": false}', False, False),
    (b'{"include_usage": true}', True, False),
    (b'{"include_usage": true, "continuous_usage_stats": true}', True, True),
    (b'{"continuous_usage_stats": true}', False, True),
    (b'{"include_usage": 1}', False, False),
    (b'{"include_usage": "true", "x": [{"y": "}"}]}', False, False),
]


@pytest.mark.parametrize(("options", "include", "continuous"), OPTIONS, ids=str)
def test_requested_usage_options_are_remembered_and_replaced(options: bytes, include: bool, continuous: bool) -> None:
    request = chat(b',"stream":true,"stream_options":' + options + b',"seed":1')
    assert (request.include_usage, request.continuous_usage) == (include, continuous)
    decoded = json.loads(request.body, object_pairs_hook=list)
    assert [value for name, value in decoded if name == "stream_options"] == [list(ON.items())]
    for member in (*HEAD[1:].split(b", ", 1), b'"stream":true', b'"seed":1'):
        assert member in request.body


@pytest.mark.parametrize("place", ["first", "middle", "last", "twice", "escaped"])
def test_stream_options_are_replaced_at_any_position(place: str) -> None:
    given_ = b'"stream_options": {"include_usage": true}'
    others = [b'"model": "m"', b'"messages": [{"role": "user"}]', b'"stream": true', b'"x": "\\"stream_options\\": 1"']
    members = {
        "first": [given_, *others],
        "middle": [*others[:2], given_, *others[2:]],
        "last": [*others, given_],
        "twice": [given_, *others, b'"stream_options": {}'],
        "escaped": [b'"stream\\u005foptions": {"include_usage": true}', *others],
    }[place]
    request = parse(CHAT_COMPLETIONS, JSON, b"{" + b" , ".join(members) + b"}")
    pairs = json.loads(request.body, object_pairs_hook=list)
    assert [name for name, _ in pairs].count("stream_options") == 1
    assert all(member in request.body for member in others)
    assert request.include_usage is (place != "twice")  # of duplicate members, JSON parsers use the last


@pytest.mark.parametrize("options", [b"{}", b'{"include_usage": true}'])
def test_stream_options_without_a_stream_are_rejected(options: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(b',"stream_options":' + options)
    assert refused.value.param == "stream_options"


def test_a_non_streaming_route_forwards_the_field() -> None:
    body = b'{"model":"m","input":"x","stream":true}'
    assert parse(EMBEDDINGS, JSON, body).body == body
    assert not parse(EMBEDDINGS, JSON, body).stream


UNTOUCHED = [
    b"12345678901234567890123456789",
    b"1.0000000000000000000001",
    b"0." + b"1" * 5000,
    b"1E+2",
    b"-0.0",
    b'"\\u0041\\/\\ud83d\\ude00"',
    '"äöü 😀"'.encode(),
    b"[ 1 ,2, ]".replace(b", ]", b" ]"),
    b'{ "nested" : { "stream_options" : { } } }',
]


@pytest.mark.parametrize("value", UNTOUCHED, ids=lambda value: value[:20].decode(errors="replace"))
@pytest.mark.parametrize("options", [b"", b',"stream_options":{}'])
def test_an_unknown_field_is_forwarded_unchanged(value: bytes, options: bytes) -> None:
    request = chat(b',"stream":true' + options + b',"x_unknown": ' + value)
    assert b'"x_unknown": ' + value in request.body
    assert json.loads(request.body)["stream_options"] == ON


def test_the_last_of_duplicate_fields_counts() -> None:
    assert chat(b', "model": "n"').model == "n"
    with pytest.raises(InvalidRequest):
        chat(b', "model": 7')


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
NAMES = TEXT.map(lambda name: "x" + name) | st.sampled_from(['a"b', "\\", "stream_option", "Stream_option"])
OPTION = st.none() | st.just({"include_usage": True}) | st.dictionaries(TEXT, VALUES, max_size=2)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.none() | OPTION.map(lambda o: (o,)), st.randoms(), st.booleans())
def test_the_forwarded_body_decodes_to_the_same_plus_stream_options(
    extra: dict[str, Any], options: tuple[Any] | None, order: Any, ascii_only: bool
) -> None:
    fields = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, **extra}
    if options is not None:
        fields["stream_options"] = options[0]
    names = list(fields)
    order.shuffle(names)
    indent = order.choice([None, 0, 2])
    body = json.dumps({name: fields[name] for name in names}, ensure_ascii=ascii_only, indent=indent).encode()
    request = parse(CHAT_COMPLETIONS, JSON, body)
    assert json.loads(request.body) == {**fields, "stream_options": ON}


BROKEN = {
    "empty": b"",
    "blank": b"  ",
    "cut off": HEAD,
    "a comma too many": HEAD + b",}",
    "two objects": b"{}{}",
    "not UTF-8": HEAD + b',"x":"\xff"}',
    "a lone surrogate": HEAD + b',"x":"\\ud800"}',
    "a control character": HEAD + b',"x":"\n"}',
    "NaN": HEAD + b',"x":NaN}',
    "a number without end": HEAD + b',"x":' + b"1" * 5000 + b"}",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b"}",
    "a comment": HEAD + b"/* x */}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_invalid_json_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(CHAT_COMPLETIONS, JSON, body)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"[{}]"])
def test_a_body_that_is_not_an_object_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        parse(CHAT_COMPLETIONS, JSON, body)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_limited_to_a_hundred_levels(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b',"x":' + opening * levels + b"1" + closing * levels

    assert chat(nested(99)).model == "m"
    for levels in (100, 101, 100_000):
        with pytest.raises(InvalidRequest) as refused:
            chat(nested(levels))
        assert refused.value.code == "nesting_too_deep"


def test_brackets_in_text_and_side_by_side_do_not_nest() -> None:
    assert chat(b',"x":"' + b"[{" * 500 + b'\\""').model == "m"
    assert chat(b',"x":[' + b"[]," * 500 + b"1]").model == "m"


@pytest.mark.parametrize("content_type", [b"", b"application/json", b"Application/JSON; charset=utf-8"])
def test_a_json_or_missing_media_type_is_accepted(content_type: bytes) -> None:
    assert parse(CHAT_COMPLETIONS, content_type, HEAD + b"}").model == "m"


@pytest.mark.parametrize("content_type", [b"text/plain", b"multipart/form-data; boundary=x", b"x"])
def test_another_media_type_is_rejected(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        parse(CHAT_COMPLETIONS, content_type, HEAD + b"}")


ROUTES: list[tuple[Route, dict[str, Any]]] = [
    (CHAT_COMPLETIONS, {"model": "m", "messages": [{"role": "tool", "content": None}, {"role": "x", "content": []}]}),
    (COMPLETIONS, {"model": "m", "prompt": [[1, 2], [3]], "logprobs": 0, "stop": None, "suffix": None}),
    (EMBEDDINGS, {"model": "m", "input": [1, 2, 3], "dimensions": 8, "encoding_format": "base64"}),
    (TOKENIZE, {"model": "m"}),
]


@pytest.mark.parametrize(("route", "body"), ROUTES, ids=[route.name for route, _ in ROUTES])
def test_a_valid_body_is_accepted_and_null_means_absent(route: Route, body: dict[str, Any]) -> None:
    check_fields(route, {**body, **dict.fromkeys(set(route.checks) - set(body))})


@pytest.mark.parametrize(("route", "body"), ROUTES, ids=[route.name for route, _ in ROUTES])
@pytest.mark.parametrize("value", [[], {}, "x", 1, 1.5, True, None])
def test_a_field_of_an_invalid_type_is_rejected_with_a_message(route: Route, body: dict[str, Any], value: Any) -> None:
    for name in route.checks:
        error = check_error(route, {**body, name: value})
        if error is not None:
            assert re.split(r"[.\[]", error.param or "")[0] == name
            assert f"'{error.param}'" in error.message


@pytest.mark.parametrize("seed", [b"-9223372036854776000", b"9223372036854776000", b"99999999999999999999", b"-1e30"])
def test_an_integer_beyond_64_bits_is_rejected(seed: bytes) -> None:
    with pytest.raises(
        InvalidRequest, match="expected a value from -9223372036854775808 to 9223372036854775807"
    ) as refused:
        chat(b',"seed":' + seed)
    assert (refused.value.param, refused.value.code) == ("seed", "invalid_value")


def check_error(route: Route, body: dict[str, Any]) -> InvalidRequest | None:
    try:
        check_fields(route, body)
    except InvalidRequest as error:
        return error
    return None


def test_each_field_of_a_request_has_its_own_value() -> None:
    rest = (
        b',"stream":true,"stream_options":{"include_usage":true},"max_tokens":7,"n":3,"tools":[{"type":"file_search"}]'
    )
    request = chat(rest)
    assert values(request.replace(body=b"")) == {
        "model": "m",
        "stream": True,
        "include_usage": True,
        "continuous_usage": False,
        "body": b"",
        "max_prompt_tokens": len(HEAD + rest + b"}"),
        "max_completion_tokens": 21,
        "prompt_count": 1,
        "choice_count": 3,
        "prompt_unbounded": False,
        "tool_count": 1,
        "file_search": True,
    }
