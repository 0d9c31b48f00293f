"""Responses with citations: in the last chunk of a stream or in the messages, and errors and other forms as they came."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tracemalloc
from typing import Any

import pytest

from llmariner.file_search.annotated_response import AnnotatedResponse
from llmariner.file_search.citations import Citations
from llmariner.file_search.passages import Passage

TEXT = "The office in Lyon closes at six."
CALL = {"id": "fs_1", "type": "file_search_call"}
STREAM = b"text/event-stream; charset=utf-8"
JSON = b"application/json"
DONE = b"data: [DONE]\n\n"


def sent(*parts: bytes, status: int = 200, kind: bytes = STREAM) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body that the client gets."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def scenario() -> None:
        response = AnnotatedResponse(send, lambda: Citations([Passage("file-1", "a.md", TEXT, 2, {})]), lambda: CALL)
        length = (b"content-length", b"%d" % sum(map(len, parts)))
        headers = [(b"content-type", kind), length, (b"x-request-id", b"req_1")]
        await response({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            await response({"type": "http.response.body", "body": part, "more_body": True})
        await response({"type": "http.response.body", "body": b""})

    asyncio.run(scenario())
    start, *bodies = messages
    assert (start["type"], start["status"]) == ("http.response.start", status)
    assert not bodies[-1].get("more_body")
    return start["headers"], b"".join(each["body"] for each in bodies)


def chunk(text: str | None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": None}
    identity = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**identity, "choices": [choice], **fields}).encode() + b"\n\n"


def annotated(body: bytes) -> list[Any]:
    """The annotations by choice in the one chunk that has them."""
    events = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    [found] = [each for each in events if "file_search_call" in each]
    assert (found["id"], found["model"], found["file_search_call"]) == ("chatcmpl-1", "m", CALL)
    return [[each["quote"] for each in choice["delta"]["annotations"]] for choice in found["choices"]]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_gets_its_citations_before_its_end_however_it_is_cut(size: int) -> None:
    usage = b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":1}}\n\n'
    comment = b': {"phase":"loading"}\n\n'
    stream = (
        comment
        + chunk("The office in ")
        + chunk("Nothing", 1)
        + chunk("Lyon closes at six.")
        + chunk(None)
        + usage
        + DONE
    )
    _, body = sent(*[stream[at : at + size] for at in range(0, len(stream), size)])
    head, found, tail = body.partition(
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    )
    assert head + tail[tail.index(b"\n\n") + 2 :] == stream
    assert tail.endswith(usage + DONE)
    assert annotated(found + tail) == [[TEXT[:-1]], []]


def test_a_stream_with_usage_has_null_in_the_added_chunk() -> None:
    _, body = sent(chunk(TEXT, usage=None), DONE)
    assert b'"usage":null,"choices"' in body
    _, body = sent(chunk(TEXT), DONE)
    assert b"usage" not in body


def test_a_stream_that_breaks_off_or_fails_gets_none() -> None:
    failed = b'data: {"error":{"message":"x"}}\n\n'
    for stream in (chunk(TEXT), chunk(TEXT) + failed, failed, DONE, b": x\n\n", b"data: x\n\n" + DONE, b"data: []\n\n"):
        assert sent(stream)[1] == stream


def test_a_whole_response_gets_its_citations_and_its_length() -> None:
    message = {"role": "assistant", "content": TEXT, "annotations": None}
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    response = {"id": "x", "choices": [{"message": message}, {"message": calls}], "usage": {"prompt_tokens": 7}}
    raw = json.dumps(response).encode()
    headers, body = sent(raw[:9], raw[9:], kind=JSON)
    assert dict(headers) == {b"content-type": JSON, b"content-length": b"%d" % len(body), b"x-request-id": b"req_1"}
    found = json.loads(body)
    [annotation] = found["choices"][0]["message"].pop("annotations")
    assert annotation["quote"] == TEXT[:-1]
    assert found["choices"][1]["message"] == {**calls, "annotations": []}
    assert (found["file_search_call"], found["usage"]) == (CALL, {"prompt_tokens": 7})


@pytest.mark.parametrize(
    "raw", [b"{}", b"[]", b"<html>", b'{"choices":[{}]}', b'{"choices":[{"message":{"content":7}}]}']
)
def test_an_answer_of_another_form_passes(raw: bytes) -> None:
    headers, body = sent(raw, kind=JSON)
    assert body == raw
    assert dict(headers)[b"content-length"] == b"%d" % len(raw)


@pytest.mark.parametrize("status", [400, 404, 429, 503])
def test_an_error_passes(status: int) -> None:
    assert sent(b'{"error":{}}', status=status, kind=JSON)[1] == b'{"error":{}}'


def test_choices_that_nobody_requested_are_ignored() -> None:
    strange: list[Any] = [-1, 128, 10**30, "0", None, True, [], {}]
    stream = b"".join(chunk(TEXT, index) for index in strange)
    _, body = sent(stream, chunk(TEXT), DONE)
    assert body.startswith(stream)
    assert annotated(body) == [[TEXT[:-1]]]


def test_a_response_that_is_too_large_passes() -> None:
    raw = json.dumps({"choices": [{"message": {"content": "x" * 9 * 2**20}}]}).encode()
    assert sent(raw, kind=JSON)[1] == raw


def test_text_without_end_is_cited_up_to_a_length() -> None:
    filler = "lorem ipsum " * 1000
    _, body = sent(*[chunk(filler) for _ in range(50)], chunk(TEXT), DONE)
    assert annotated(body) == [[]]
    _, body = sent(chunk(TEXT + "\n"), *[chunk(filler) for _ in range(50)], DONE)
    assert annotated(body) == [[TEXT[:-1]]]


def test_what_no_model_sends_passes_unchanged_and_ends_no_stream() -> None:
    many = b'data: {"choices":[' + b"{}," * 600_000 + b"{}]}\n\n"
    parts = [chunk("It closes "), chunk(["at"]), chunk({"at": 1}), many, chunk("at six [1]."), DONE]  # type: ignore[arg-type]
    began = time.process_time()
    _, body = sent(*parts)
    assert time.process_time() - began < 2
    assert annotated(body) == [[TEXT]]
    assert many in body


def test_the_text_of_a_long_stream_takes_little_more_than_its_bytes() -> None:
    async def send(message: Any) -> None:
        pass

    async def scenario() -> int:
        response = AnnotatedResponse(send, lambda: Citations([]), lambda: CALL)
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", STREAM)]}
        await response(start)
        event = chunk("four")
        tracemalloc.start()
        try:
            for _ in range(40_000):
                await response({"type": "http.response.body", "body": event, "more_body": True})
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(scenario()) < 4 * 160_000


def test_citations_of_two_responses_at_a_time_are_found() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def count(change: int) -> None:
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)

    def citations() -> Citations:
        count(1)
        time.sleep(0.01)
        count(-1)
        return Citations([])

    async def send(message: Any) -> None:
        pass

    async def respond() -> None:
        response = AnnotatedResponse(send, citations, lambda: CALL)
        headers = [(b"content-type", STREAM)]
        await response({"type": "http.response.start", "status": 200, "headers": headers})
        await response({"type": "http.response.body", "body": chunk("x") + DONE, "more_body": True})

    async def scenario() -> None:
        await asyncio.gather(*(respond() for _ in range(20)))

    asyncio.run(scenario())
    assert most <= 2
