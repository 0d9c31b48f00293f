"""The parser of server-sent events, with edge cases of the standard."""

from __future__ import annotations

import json

import pytest

from llmariner.cli.support.server_sent_events import Comment, Event, Frame, parse_frames

CASES: list[tuple[str, bytes, list[Frame]]] = [
    ("one event", b"data: a\n\n", [Event("a")]),
    ("lines are joined", b"data: a\ndata: b\n\n", [Event("a\nb")]),
    ("one space is the separator's", b"data:  a\ndata:b\n\n", [Event(" a\nb")]),
    ("a name", b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    ("a comment", b': {"phase": "loading"}\n\n', [Comment('{"phase": "loading"}')]),
    ("a comment inside an event", b"data: a\n:ping\ndata: b\n\n", [Comment("ping"), Event("a\nb")]),
    ("carriage returns", b"data: a\r\n\r\ndata: b\r\n\r\n", [Event("a"), Event("b")]),
    ("unknown fields", b"id: 7\nretry: 9\nbare\ndata: a\n\n", [Event("a")]),
    ("an unfinished event is dropped", b"data: a\n\ndata: b\n", [Event("a")]),
    ("a named event without data is dropped", b"event: x\n\ndata: a\n\n", [Event("a")]),
]


@pytest.mark.parametrize(("stream", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_do_not_depend_on_chunks(stream: bytes, expected: list[Frame], size: int) -> None:
    assert list(parse_frames(stream[i : i + size] for i in range(0, len(stream), size))) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_separator_inside_a_string_does_not_end_the_line(separator: str) -> None:
    data = json.dumps({"content": f"a{separator}b"}, ensure_ascii=False)
    assert list(parse_frames([f"data: {data}\n\n".encode()])) == [Event(data)]


def test_a_character_split_between_two_chunks_is_restored() -> None:
    raw = "data: ä😀\n\n".encode()
    assert list(parse_frames([raw[:7], raw[7:10], raw[10:]])) == [Event("ä😀")]
