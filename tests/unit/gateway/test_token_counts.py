"""Usage of an engine is read without trust and never causes an error."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH
from llmariner.gateway.control_plane.port import Key
from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.gateway.metering.token_counts import ChoiceUsage, TokenBounds, parse_usage
from llmariner.gateway.requests.parser import ModelRequest

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)


def request(prompt: int, answer: int | None, *, prompts: int = 1, answers: int = 1) -> ModelRequest:
    return ModelRequest("m", True, False, False, b"", prompt, answer, prompts, answers)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b"", (0, 0, 0, 0)),
        (b'"usage":null', (0, 0, 0, 0)),
        (b'"usage":{"prompt_tokens":5,"total_tokens":5}', (5, 0, 0, 0)),
        (b'"usage": {"prompt_tokens": 5, "completion_tokens": 6}', (5, 6, 0, 0)),
        (b'{"prompt_tokens":5,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":4}}', (5, 6, 4, 0)),
        (b'{"prompt_tokens":123456789012}', (123456789012, 0, 0, 0)),
        (b'{"completion_tokens":6,"completion_tokens_details":{"reasoning_tokens": 5}}', (0, 6, 0, 5)),
        (b'{"prompt_tokens":null}', (0, 0, 0, 0)),
        (b'{"prompt_tokens":5,"prompt_tokens":7}', (7, 0, 0, 0)),
    ],
)
def test_counts_are_read_from_usage_and_missing_ones_are_zero(usage: bytes, expected: tuple[int, ...]) -> None:
    found = parse_usage(usage)
    assert found is not None
    assert found.counts == expected


NO_COUNTS = ["-1", '"5"', '"x"', "1.5", "1e3", "true", "[5]", '{"a":1}', "1" * 5000, "NaN", "", "0x10"]


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: value[:10])
def test_an_invalid_count_is_distinguished_from_a_missing_one(value: str) -> None:
    assert parse_usage(f'"usage":{{"prompt_tokens":{value},"completion_tokens":3}}'.encode()) is None


NAMES = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "usage", "index")
PIECES = st.sampled_from(
    [
        *(f'"{name}":'.encode() for name in NAMES),
        *(b"9" * 6000, b"-7", b"5", b"null", b"{", b"}", b",", b"\n\n", b'"choices":[]', b"data: ", b"\xff\x00"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    chunks=st.lists(st.lists(PIECES, max_size=8).map(b"".join) | st.binary(max_size=40), max_size=6),
    answer=st.none() | st.integers(0, 50),
    outcome=st.sampled_from(["succeeded", "failed", "cancelled"]),
    several=st.booleans(),
)
def test_a_request_is_charged_within_its_bounds_for_any_usage(
    chunks: list[bytes], answer: int | None, outcome: str, several: bool
) -> None:
    asked = request(40, answer, answers=2 if several else 1)
    bounds = TokenBounds.from_request(asked, 1000)
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions", bounds)
    answers = ChoiceUsage(asked)
    seen = metered.next_event("admitted")
    for chunk in chunks:
        metered.usage = answers.add(chunk) if several else chunk
        metered.needs_checkpoint(0)
        seen = metered.next_event("checkpoint")
    last = metered.next_event("closed", outcome=outcome)
    assert 0 <= seen["prompt_tokens"] <= last["prompt_tokens"] <= bounds.prompt
    assert 0 <= seen["completion_tokens"] <= last["completion_tokens"] <= bounds.completion
    assert last["uncounted"] or outcome != "succeeded" or last["prompt_tokens"]
    json.dumps(last)


@pytest.mark.parametrize(
    ("asked", "context", "most", "charged"),
    [
        (request(100, 7), None, (100 + DEFAULT_CONTEXT_LENGTH, 7), (100, 7)),
        (request(100, 7), 50, (50, 7), (50, 7)),
        (request(100, 7000), 50, (50, 50), (50, 50)),
        (request(100, None), 8192, (8192, 8192), (100, 1024)),
        (request(100, None, answers=3), 8192, (8192, 3 * 8192), (100, 3 * 1024)),
        (request(100, 60, prompts=2, answers=6), 8192, (2 * 8192, 60), (100, 60)),
        (request(0, 0), None, (0, 0), (0, 0)),
    ],
)
def test_the_bounds_are_what_a_request_can_use_and_the_charge_is_its_reservation(
    asked: ModelRequest, context: int | None, most: tuple[int, int], charged: tuple[int, int]
) -> None:
    bounds = TokenBounds.from_request(asked, context)
    assert (bounds.prompt, bounds.completion, bounds.charged_prompt, bounds.charged_completion) == (*most, *charged)


@pytest.mark.parametrize("usage", [b"", b'"usage":null', b'"usage":{"prompt_tokens":-3}', b'{"prompt_tokens":99999}'])
def test_a_response_without_plausible_usage_is_charged_its_reservation(usage: bytes) -> None:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions", TokenBounds.from_request(request(100, 7), 8192))
    metered.usage = usage
    event = metered.next_event("closed", outcome="succeeded", status=200)
    assert (event["prompt_tokens"], event["completion_tokens"], event["uncounted"]) == (100, 7, True)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":100,"completion_tokens":7}', (100, 7, 0, 0)),
        (b'{"prompt_tokens":100,"completion_tokens":8}', None),
        (b'{"prompt_tokens":8193,"completion_tokens":7}', None),
        (b'{"prompt_tokens":5,"completion_tokens":7,"cached_tokens":6}', (5, 7, 5, 0)),
        (b'{"prompt_tokens":5,"completion_tokens":6,"reasoning_tokens":7}', (5, 6, 0, 6)),
    ],
)
def test_each_count_is_limited_by_its_own_bound(usage: bytes, expected: tuple[int, ...] | None) -> None:
    believed = TokenBounds.from_request(request(100, 7), 8192).plausible(parse_usage(usage))
    assert (None if believed is None else believed.counts) == expected


def test_reported_usage_of_a_request_never_decreases() -> None:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions", TokenBounds.from_request(request(100, 70), 8192))
    metered.usage = b'{"prompt_tokens":50,"completion_tokens":60}'
    metered.next_event("checkpoint")
    metered.usage = b'{"prompt_tokens":1,"completion_tokens":1}'
    event = metered.next_event("closed", outcome="succeeded", status=200)
    assert (event["prompt_tokens"], event["completion_tokens"]) == (50, 60)


def test_a_request_without_a_response_is_charged_nothing() -> None:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions", TokenBounds.from_request(request(100, 7), 8192))
    event = metered.next_event("closed", outcome="failed", status=502)
    assert (event["prompt_tokens"], event["completion_tokens"], event["uncounted"]) == (0, 0, False)


def chunk(index: int, prompt: int, made: int) -> bytes:
    """As vLLM writes one of several answers: its own count."""
    value = {"choices": [{"index": index, "delta": {}}], "usage": {"prompt_tokens": prompt, "completion_tokens": made}}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def test_interleaved_choices_are_counted_together() -> None:
    asked = request(100, None, prompts=2, answers=4)
    answers = ChoiceUsage(asked)
    stream = [chunk(0, 5, 1), chunk(1, 5, 1) + chunk(2, 9, 1), chunk(3, 9, 1), chunk(0, 5, 2), b": waiting\n\n"]
    reported = [parse_usage(answers.add(block)) for block in stream]
    assert [(found.prompt_tokens, found.completion_tokens) for found in reported if found] == [
        (5, 1),
        (14, 3),
        (14, 4),
        (14, 5),
        (14, 5),
    ]
    whole = parse_usage(answers.add(b'data: {"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":6}}\n\n'))
    assert whole is not None
    assert whole.completion_tokens == 6


def null(index: int, delta: str) -> bytes:
    """A chunk of a choice without counts."""
    return b'data: {"choices":[{"index":%d,"delta":%b}],"usage":null}\n\n' % (index, delta.encode())


def test_a_null_usage_takes_no_counts_from_a_choice_that_has_ended() -> None:
    answers = ChoiceUsage(request(100, None, answers=2))
    for block in (chunk(0, 5, 3), chunk(1, 5, 4), null(1, "{}"), null(0, '{"content":""}'), null(7, '{"content":"x"}')):
        reported = parse_usage(answers.add(block))
    assert reported is not None
    assert reported.counts == (5, 7, 0, 0)
    total = b'data: {"choices":[],"usage":null}\n\n'
    assert parse_usage(answers.add(total)).counts == (5, 7, 0, 0)  # type: ignore[union-attr]
    assert parse_usage(answers.add(null(1, '{"content":"x"}'))).counts == (0, 0, 0, 0)  # type: ignore[union-attr]
    assert parse_usage(answers.add(chunk(1, 5, 6))).counts == (5, 9, 0, 0)  # type: ignore[union-attr]


def test_the_cost_of_a_chunk_is_independent_of_the_number_of_choices() -> None:
    answers = ChoiceUsage(request(100, 320_000, prompts=20_000, answers=20_000))
    for index in range(20_000):
        answers.add(chunk(index, 2, 1))
    began = time.process_time()
    for index in range(1000):
        reported = answers.add(chunk(index, 2, 2))
    assert time.process_time() - began < 0.5
    found = parse_usage(reported)
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens) == (40_000, 21_000)


def test_unrequested_choices_are_neither_stored_nor_counted() -> None:
    answers = ChoiceUsage(request(100, 60, prompts=2, answers=4))
    answers.add(chunk(3, 5, 1))
    for index in range(4, 1000):
        reported = answers.add(chunk(index, 5, 9))
    found = parse_usage(reported)
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens) == (5, 1)
    assert len(answers._completion_by_choice) == 1


def test_an_endless_usage_object_takes_no_time() -> None:
    huge = b'"usage":{' + b'"prompt_tokens":5,' * 500_000
    began = time.process_time()
    found = parse_usage(huge)
    assert time.process_time() - began < 0.05
    assert found is not None
    assert found.counts == (5, 0, 0, 0)
