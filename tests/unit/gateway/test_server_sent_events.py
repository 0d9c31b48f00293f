"""Server-sent events as bytes: complete events, with only the requested usage."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.gateway.metering.token_counts import parse_usage
from llmariner.gateway.responses.server_sent_events import (
    DONE,
    EventSplitter,
    UsageFilter,
    format_comment,
    format_event,
)
from llmariner.http_client import ResponseFailed

USAGE = {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3}


def chunk(content: str, usage: Any = None, *, spaced: bool = False) -> bytes:
    """An engine's event with a piece of text and usage."""
    delta = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], "id": "c", "usage": usage}
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(delta, separators=separators).encode() + b"\n\n"


def last(usage: Any = USAGE) -> bytes:
    """The usage-only event at the end."""
    return format_event({"id": "c", "choices": [], "usage": usage})


def events(stream: bytes) -> list[Any]:
    """The events that a client reads, decoded; [DONE] unchanged."""
    parts = [part.removeprefix(b"data: ") for part in stream.split(b"\n\n") if part]
    return [part if part == b"[DONE]" else json.loads(part) for part in parts]


STREAM = chunk("he", USAGE) + chunk("llo", {**USAGE, "completion_tokens": 4}) + last() + DONE


def filtered(stream: bytes, *, include: bool, continuous: bool) -> bytes:
    return UsageFilter(include=include, continuous=continuous).apply(stream)


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_a_stream_split_anywhere_is_parsed_completely(at: int) -> None:
    splitter = EventSplitter()
    first = splitter.feed(STREAM[:at])
    second = splitter.feed(STREAM[at:])
    assert first + second == STREAM
    assert first == b"" or first.endswith(b"\n\n")
    assert len(STREAM[:at]) - len(first) < len(STREAM)
    assert first == STREAM[: STREAM[:at].rfind(b"\n\n") + 2 if b"\n\n" in STREAM[:at] else 0]
    assert splitter.remainder == b""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_split_into_many_chunks_is_parsed_completely(places: list[int]) -> None:
    splitter, out = EventSplitter(), b""
    borders = [0, *sorted(places), len(STREAM)]
    for start, end in itertools.pairwise(borders):
        block = splitter.feed(STREAM[start:end])
        assert block == b"" or block.endswith(b"\n\n")
        out += block
    assert out == STREAM


def test_lines_that_end_in_crlf_are_relayed_as_others() -> None:
    stream = STREAM.replace(b"\n", b"\r\n")
    for at in range(len(stream) + 1):
        splitter = EventSplitter()
        assert splitter.feed(stream[:at]) + splitter.feed(stream[at:]) == STREAM
        assert splitter.remainder == b""


def test_an_unfinished_event_remains_in_the_buffer() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: {}\n\ndata: {") == b"data: {}\n\n"
    assert splitter.remainder == b"data: {"
    assert splitter.feed(b"") == b""


def test_an_event_in_many_chunks_is_parsed_in_linear_time_and_bounded() -> None:
    splitter = EventSplitter()
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == b""
    assert splitter.feed(b"\n") + splitter.feed(b"\n\n") == b"x" * 10**6 + b"\n\n\n"
    assert splitter.remainder == b""
    for _ in range(40):
        assert splitter.feed(b"x" * 50_000) == b""
    with pytest.raises(ResponseFailed):
        splitter.feed(b"x" * 500_000)


def test_without_requested_usage_a_client_gets_none() -> None:
    seen = events(filtered(STREAM, include=False, continuous=False))
    assert [event["choices"][0]["delta"]["content"] for event in seen[:-1]] == ["he", "llo"]
    assert all("usage" not in event for event in seen[:-1])
    assert seen[-1] == b"[DONE]"


def test_requested_usage_is_sent_once_at_the_end() -> None:
    seen = events(filtered(STREAM, include=True, continuous=False))
    # Null in all other events, as in OpenAI's API.
    assert [event["usage"] for event in seen[:-1]] == [None, None, USAGE]


@pytest.mark.parametrize("include", [True, False])
def test_an_event_with_neither_choices_nor_usage_is_relayed_whatever_it_arrives_with(include: bool) -> None:
    other = format_event({"id": "c", "choices": [], "prompt_filter_results": []})
    apart = filtered(other, include=include, continuous=False) + filtered(STREAM, include=include, continuous=False)
    assert filtered(other + STREAM, include=include, continuous=False) == apart
    assert apart.startswith(other)


def test_continuous_usage_is_relayed_byte_for_byte() -> None:
    assert filtered(STREAM, include=True, continuous=True) == STREAM


def test_continuous_usage_alone_sends_none() -> None:
    assert filtered(STREAM, include=False, continuous=True) == filtered(STREAM, include=False, continuous=False)


@pytest.mark.parametrize("include", [False, True])
def test_event_boundaries_do_not_change_the_output(include: bool) -> None:
    usage_filter = UsageFilter(include=include, continuous=False)
    parts = [usage_filter.apply(part + b"\n\n") for part in STREAM.split(b"\n\n") if part]
    assert b"".join(parts) == filtered(STREAM, include=include, continuous=False)


@pytest.mark.parametrize("usage", [USAGE, {**USAGE, "prompt_tokens_details": {"cached_tokens": 5}}, None])
@pytest.mark.parametrize("spaced", [False, True])
def test_usage_in_any_format_is_removed(usage: Any, spaced: bool) -> None:
    [seen] = events(filtered(chunk("x", usage, spaced=spaced), include=False, continuous=False))
    assert set(seen) == {"choices", "id"}


LOOKALIKES = [
    ',"usage":{"prompt_tokens":9}',
    '"usage":null',
    '"choices":[]',
    ',"usage": {"a": {"b": 1}}, "choices": []',
    "data: [DONE]\n\n",
    '\\",\\"usage\\":{',
    '}],"usage":{"prompt_tokens":1}}',
]


@pytest.mark.parametrize("content", LOOKALIKES)
@pytest.mark.parametrize(("include", "continuous"), [(False, False), (True, False), (True, True)])
def test_text_that_looks_like_usage_is_unchanged(content: str, include: bool, continuous: bool) -> None:
    stream = chunk(content, USAGE) + last() + DONE
    seen = events(filtered(stream, include=include, continuous=continuous))
    assert seen[0]["choices"][0]["delta"]["content"] == content
    assert ("usage" in seen[0]) is include
    assert (seen[0].get("usage") is not None) is continuous
    assert len(seen) == (3 if include else 2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(LOOKALIKES), max_size=4), st.booleans()
)
def test_any_generated_text_is_unchanged(contents: list[str], include: bool) -> None:
    stream = b"".join(chunk(content, USAGE) for content in contents) + last() + DONE
    seen = events(filtered(stream, include=include, continuous=False))
    texts = [event["choices"][0]["delta"]["content"] for event in seen[:-1] if event["choices"]]
    assert texts == contents
    assert len(seen) == len(contents) + 1 + include


def test_comments_and_the_done_event_are_unchanged() -> None:
    for part in (format_comment({"phase": "loading"}), DONE, format_event({"error": {"message": "x"}})):
        assert filtered(part, include=False, continuous=False) == part


def test_the_last_usage_is_stored() -> None:
    usage_filter = UsageFilter(include=False, continuous=False)
    usage_filter.apply(chunk("a", USAGE))
    usage_filter.apply(chunk("b", {**USAGE, "completion_tokens": 7}))
    usage_filter.apply(DONE)
    found = parse_usage(usage_filter.usage)
    assert found is not None
    assert found.counts == (9, 7, 0, 0)


def without_text(usage: Any, **choice: Any) -> bytes:
    """An event that ends an answer."""
    return format_event({"id": "c", "choices": [{"index": 0, **choice, "finish_reason": "stop"}], "usage": usage})


EMPTY = [
    without_text(None, delta={}),
    without_text(None, delta={"role": "assistant", "content": "", "tool_calls": [], "reasoning_content": None}),
    without_text(None, text=""),
    last(None),
    last(None).replace(b":", b": "),
    last(None) + without_text(None, delta={}) + DONE,
]
TEXT = [
    chunk("b"),
    chunk("b", spaced=True),
    without_text(None, text="b"),
    without_text(None, delta={"thinking": "b"}),
    without_text(None, delta="b"),
    format_event({"usage": None}),
    format_event({"choices": {}, "usage": None}),
    format_event({"choices": [1], "usage": None}),
    b'data: {"choices":[,"usage":null}\n\n',
    last(None).replace(b'"id"', b'"' + b"x" * 20_000 + b'"'),
]


@pytest.mark.parametrize("one_block", [False, True])
@pytest.mark.parametrize(("include", "continuous"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("more", "expected"), [*((each, (9, 3, 0, 0)) for each in EMPTY), *((each, (0, 0, 0, 0)) for each in TEXT)]
)
def test_a_null_usage_leaves_counts_unless_text_came_after_them(
    more: bytes, expected: tuple[int, ...], include: bool, continuous: bool, one_block: bool
) -> None:
    usage_filter = UsageFilter(include=include, continuous=continuous)
    blocks = [chunk("a", USAGE), more, DONE]
    for block in [b"".join(blocks)] if one_block else blocks:
        usage_filter.apply(block)
    found = parse_usage(usage_filter.usage)
    assert found is not None
    assert found.counts == expected
    usage_filter.apply(chunk("c", {**USAGE, "completion_tokens": 8}))
    found = parse_usage(usage_filter.usage)
    assert found is not None
    assert found.counts == (9, 8, 0, 0)


def test_an_event_and_a_comment_have_one_line_each() -> None:
    assert format_event({"a": "b\nc"}) == b'data: {"a":"b\\nc"}\n\n'
    assert format_comment({"a": None}) == b': {"a":null}\n\n'


@pytest.mark.parametrize("events_in_block", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("include", [False, True])
def test_a_block_of_any_number_of_events_loses_every_usage(events_in_block: int, include: bool) -> None:
    parts = [chunk(str(number), USAGE) for number in range(events_in_block)]
    alone = b"".join(filtered(part, include=include, continuous=False) for part in parts)
    assert filtered(b"".join(parts), include=include, continuous=False) == alone
    assert b"prompt_tokens" not in alone


def test_a_block_of_many_usages_takes_linear_time() -> None:
    block = b'data: {"a":1' + b',"usage":{}' * 150_000 + b"}\n\n"
    began = time.process_time()
    assert filtered(block, include=False, continuous=False) == b'data: {"a":1}\n\n'
    assert time.process_time() - began < 1


# What a hostile engine may send around a usage: open and nested objects, braces in strings, usage in usage, cut events.
PIECES = st.sampled_from(
    [
        *(b',"usage":', b'"usage":', b', "usage": ', b'\\"usage\\":', b'"choices":[1]', b'"choices":[]'),
        *(b'{"prompt_tokens":5}', b'{"a":{"b":1}}', b'"x":"}"', b'"x":"{"', b"{", b"}", b"null", b",", b" ", b"\n\n"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40), st.booleans())
def test_usage_is_cut_out_of_any_bytes_as_the_pattern_does(pieces: list[bytes], include: bool) -> None:
    block = b"".join(pieces).replace(b"[]", b"[0]")
    replacement = b',"usage":null' if include else b""
    pattern = rb',\s?"usage":\s?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|null)'
    assert filtered(block, include=include, continuous=False) == (
        re.sub(pattern, replacement, block) if b'"usage":' in block else block
    )
