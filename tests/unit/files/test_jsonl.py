"""JSON Lines: the error names the line and the cause, however the bytes arrive."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import pytest

from llmariner.errors import InvalidRequest
from llmariner.files import jsonl
from llmariner.files.jsonl import JsonlCheck, check_batch_line, check_training_line

REQUEST = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}


def run(check: JsonlCheck, data: bytes, size: int = 1 << 20) -> None:
    """Check data that arrives in parts of that size."""
    for at in range(0, len(data), size):
        check.feed(data[at : at + size])
    check.finish()


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def batch_error(data: bytes, size: int = 1 << 20) -> str:
    with pytest.raises(InvalidRequest) as error:
        run(JsonlCheck(check_batch_line()), data, size)
    assert (error.value.param, error.value.code) == ("file", "invalid_jsonl")
    return error.value.message


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \n", b""])
def test_valid_lines_pass(size: int, end: bytes) -> None:
    data = b"\n".join(lines({**REQUEST, "custom_id": str(n), "x": "é"}).strip() for n in range(9)) + end
    run(JsonlCheck(check_batch_line()), data, size)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_number_of_the_line_counts_blank_ones(size: int) -> None:
    data = lines(REQUEST) + b"\n \n{]\n" + lines(REQUEST)
    assert batch_error(data, size).startswith("Line 4 is not valid JSON")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "has no lines"),
        (b"\n\n", "has no lines"),
        (b"[]\n", "Line 1 is not a JSON object"),
        (b"7", "Line 1 is not a JSON object"),
        (b"\xff\n", "Line 1 is not valid JSON"),
        (b"\x00\n", "Line 1 is not valid JSON"),
        (b'{"a": NaN}', "Line 1 is not valid JSON"),
        (b'{"a": "\\ud800"}', "Line 1 is not valid JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "Line 1 is not valid JSON"),
        (b"\xef\xbb\xbf" + lines(REQUEST), "byte order mark"),
        (lines({**REQUEST, "custom_id": 1}), "Line 1: 'custom_id' must be a text"),
        (lines({**REQUEST, "custom_id": ""}), "'custom_id' must be a text"),
        (lines({**REQUEST, "custom_id": "x" * 513}), "'custom_id' must be a text"),
        (lines(REQUEST, REQUEST), "Line 2: 'custom_id' must be unique"),
        (lines({**REQUEST, "method": "GET"}), "'method' must be 'POST'"),
        (lines({**REQUEST, "url": "https://example.org"}), "'url' must be the path"),
        (lines({**REQUEST, "url": None}), "'url' must be the path"),
        (lines({**REQUEST, "body": []}), "'body' must be a JSON object"),
    ],
)
def test_a_batch_with_an_invalid_line_is_refused(data: bytes, cause: str) -> None:
    assert cause in batch_error(data)


MESSAGES = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
PREFERENCE = {"input": {"messages": MESSAGES}, "preferred_output": MESSAGES, "non_preferred_output": MESSAGES}


@pytest.mark.parametrize("line", [{"messages": MESSAGES}, PREFERENCE, {"prompt": "a", "completion": "b"}])
def test_every_form_of_a_training_example_passes(line: Any) -> None:
    run(JsonlCheck(check_training_line), lines(line))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ({}, "needs 'messages'"),
        ({"prompt": "a"}, "needs 'messages'"),
        ({"prompt": "a", "completion": 1}, "must be texts"),
        ({"messages": []}, "'messages' must be a list"),
        ({"messages": {}}, "'messages' must be a list"),
        ({"messages": [*MESSAGES, "x"]}, "'messages[2]' must be an object with a 'role'"),
        ({"messages": [{"role": 1}]}, "'messages[0]' must be an object with a 'role'"),
        ({**PREFERENCE, "input": []}, "'input.messages' must be a list"),
        ({**PREFERENCE, "preferred_output": []}, "'preferred_output' must be a list"),
        ({"input": {"messages": MESSAGES}, "preferred_output": MESSAGES}, "'non_preferred_output' must be a list"),
    ],
)
def test_an_invalid_training_example_is_refused(line: Any, cause: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Line 1: ") as error:
        run(JsonlCheck(check_training_line), lines(line))
    assert cause in error.value.message


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_long_line_is_refused_without_being_held(size: int, end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    check = JsonlCheck(check_batch_line())
    with pytest.raises(InvalidRequest, match="Line 2 is longer than 1000 bytes"):
        run(check, lines(REQUEST) + b" " * 1001 + end, size)
    assert len(check._pending) <= 1000


def test_a_batch_has_a_maximum_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_BATCH_LINES", 2)
    assert "Line 3: a batch has at most 2 requests" in batch_error(
        lines(*({**REQUEST, "custom_id": str(n)} for n in range(3)))
    )


def test_a_file_has_a_maximum_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINES", 3)
    run(JsonlCheck(check_batch_line()), b"\n\n" + lines(REQUEST))
    assert "more than 3 lines" in batch_error(b"\n\n\n" + lines(REQUEST))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([[]] * 7, None),
        ([[]] * 8, "Line 1 has more than 10 lists and objects"),
        ([{"a": 1}] * 8, "Line 1 has more than 10 lists and objects"),
        (["[{" * 20, "{", '"[{', "\\\\", '\\"[[[[[[[[[[[['], None),
        (['\\"[[', *[[]] * 8], "Line 1 has more than 10 lists and objects"),
        ({str(n): n for n in range(5)}, None),
        ({str(n): n for n in range(6)}, "Line 1 has more than 10 keys"),
        ({"::::::::": '":":":":"::', "\\": "::::"}, None),
        ([1] * 100, None),
    ],
)
def test_a_line_has_a_maximum_of_lists_and_objects_and_of_keys(
    value: Any, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is one object with four keys, its body another with one, and the value a list or an object."""
    monkeypatch.setattr(jsonl, "MAX_LINE_CONTAINERS", 10)
    monkeypatch.setattr(jsonl, "MAX_LINE_KEYS", 10)
    monkeypatch.setattr(jsonl, "_COUNTED_AT_ONCE", 7)
    data = lines({**REQUEST, "body": {"x": value}})
    if error is None:
        run(JsonlCheck(check_batch_line()), data)
    else:
        assert error in batch_error(data)


@pytest.mark.parametrize("unit", [b"[],", b'"",[],', b'{"a":1},', b'{"":1,"":1,"":1,"":1},'])
def test_the_densest_lines_are_refused_before_they_are_parsed(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser would hold the interpreter for 0.7 s for 8 MiB of empty lists."""
    monkeypatch.delattr(JsonlCheck, "_check_object")
    data = b'{"a":[' + unit * ((jsonl.MAX_LINE_BYTES - 100) // len(unit)) + b"1]}\n"
    with pytest.raises(InvalidRequest, match=r"more than 300000 (lists and objects|keys)"):
        run(JsonlCheck(check_training_line), data)


def test_one_large_line_is_parsed_at_a_time() -> None:
    large = lines({**REQUEST, "body": {"x": "y" * 300_000}})
    with jsonl._large_lines:
        run(JsonlCheck(check_batch_line()), lines(REQUEST))
        waiting = threading.Thread(target=run, args=(JsonlCheck(check_batch_line()), large))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()


def test_long_ids_of_a_batch_take_little_memory() -> None:
    check = check_batch_line()
    tracemalloc.start()
    try:
        for number in range(2_000):
            line = {"custom_id": f"{number:04}" + "\U0001f600" * 508, "method": "POST", "url": "/v1/embeddings"}
            assert check({**line, "body": {"model": "m", "input": "a"}}) is None
        assert tracemalloc.get_traced_memory()[0] < 600_000
    finally:
        tracemalloc.stop()
