"""Streamed answers of models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import FakePlatform, Llma

CHAT = ("chat", "completions", "create", "--model", "m", "--role", "user", "--completion", "hi")
ROUTE = "POST /chat/completions"
DONE = b"data: [DONE]\n\n"


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def comment(**facts: Any) -> bytes:
    return f": {json.dumps(facts)}\n\n".encode()


WAITING = [
    comment(phase="queued", progress=0.0, estimate_seconds=None),
    b": ping\n\n",
    comment(phase="loading", progress=0.1, estimate_seconds=20),
    comment(phase="loading", progress=0.6, estimate_seconds=9.4),
    comment(phase="starting", progress=0.99, estimate_seconds=0.2),
]


def test_text_is_streamed_to_stdout_and_nothing_else(llma: Llma, platform: FakePlatform) -> None:
    usage = b'data: {"choices": [], "usage": {"total_tokens": 4}}\n\n'
    platform.respond_with(
        ROUTE, chunks=[chunk("", role="assistant"), chunk("Hel"), chunk("lo."), chunk(finish="stop"), usage, DONE]
    )
    result = llma(*CHAT)
    assert (result.code, result.out, result.err) == (0, "Hello.\n", "")
    assert platform.requests[0].body["stream"] is True
    assert platform.requests[0].headers["accept"] == "text/event-stream"


def test_completions_are_streamed(llma: Llma, platform: FakePlatform) -> None:
    chunks = [b'data: {"choices": [{"text": " upon"}]}\n\n', b'data: {"choices": [{"text": " a\\n"}]}\n\n', DONE]
    platform.respond_with("POST /completions", chunks=chunks)
    assert llma("completions", "create", "--model", "m", "--prompt", "Once").out == " upon a\n"


def test_waiting_room_progress_appears_on_stderr_once_per_phase(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_with(ROUTE, chunks=[*WAITING, chunk("Hi."), comment(phase="ready"), DONE])
    result = llma(*CHAT)
    assert result.out == "Hi.\n"
    assert result.err.splitlines() == [
        "waiting for the model: queued",
        "waiting for the model: loading, 10%, about 20 s left",
        "waiting for the model: starting, 99%",
    ]


def test_an_answer_truncated_at_its_limit_prints_a_warning(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_with(ROUTE, chunks=[chunk("Well"), chunk(finish="length"), DONE])
    result = llma(*CHAT)
    assert (result.code, result.out) == (0, "Well\n")
    assert "--max-tokens" in result.err


ENDINGS = [
    (
        "the engine's error",
        b'data: {"error": {"message": "Out of memory.", "type": "server_error"}}\n\n',
        5,
        "Out of memory.",
    ),
    (
        "the caller's error",
        b'data: {"error": {"message": "Too long.", "type": "invalid_request_error"}}\n\n',
        1,
        "Too long.",
    ),
    ("an error as text", b'data: {"error": "boom"}\n\n', 5, "boom"),
    ("no end", b"", 5, "broke off before its end"),
]


@pytest.mark.parametrize(("last", "code", "words"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS])
def test_a_failed_stream_exits_with_an_error_and_keeps_the_text(
    last: bytes, code: int, words: str, llma: Llma, platform: FakePlatform
) -> None:
    platform.respond_with(ROUTE, chunks=[chunk("Half"), last], headers={"x-request-id": "req_7"})
    result = llma(*CHAT)
    assert (result.code, result.out) == (code, "Half\n")
    assert words in result.err
    assert "Request: req_7" in result.err
    assert "Next: " in result.err


def test_a_lost_connection_in_a_stream_is_reported(llma: Llma, platform: FakePlatform) -> None:
    chunked = {"transfer-encoding": "chunked", "x-request-id": "req_7"}
    platform.respond_with(
        ROUTE, chunks=[b"%x\r\n%s\r\n" % (len(chunk("Half")), chunk("Half")), b"50\r\n"], headers=chunked
    )
    result = llma(*CHAT)
    assert (result.code, result.out) == (5, "Half\n")
    assert "broke" in result.err
    assert "Request: req_7" in result.err


def test_a_stream_rejected_at_once_is_a_regular_error(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error(ROUTE, 429, message="Slow down.", headers={"retry-after": "3"})
    result = llma(*CHAT)
    assert (result.code, result.out) == (1, "")
    assert "again in 3 s" in result.err
    assert "req_42" in result.err


def test_a_response_that_is_not_a_stream_is_reported(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(ROUTE, {"choices": []})
    result = llma(*CHAT)
    assert result.code == 5
    assert "did not answer with an event stream" in result.err


def test_json_output_requests_a_single_document(llma: Llma, platform: FakePlatform) -> None:
    document = {"choices": [{"message": {"content": "Hi."}}]}
    platform.respond(ROUTE, document)
    assert llma(*CHAT, "-o", "json").json == document
    assert "stream" not in platform.requests[0].body


def test_a_non_streamed_request_waits_for_the_model(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(ROUTE, {"choices": []})
    llma(*CHAT, "--nostream")
    assert platform.requests[0].headers["prefer"] == "wait=3600"


def test_off_a_terminal_text_is_exact_except_for_unencodable_characters(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_with(ROUTE, chunks=[chunk("\x1b[1mé\ud83d"), DONE])
    assert llma(*CHAT).out == "\x1b[1mé?\n"
    platform.respond(ROUTE, {"choices": [{"message": {"content": "\x1b[1mé\ud83d"}}]})
    assert llma(*CHAT, "--nostream").out == "\x1b[1mé?\n"
    assert llma(*CHAT, "-o", "json").json["choices"][0]["message"]["content"] == "\x1b[1mé?"


def test_messages_keep_their_order_and_roles(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_with(ROUTE, chunks=[DONE])
    llma(*CHAT[:5], "--role", "system", "--completion", "Be kind.", "--role", "user", "--completion", "Hi")
    assert platform.requests[0].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "stream": True,
    }


def test_a_message_with_tool_calls_shows_them(llma: Llma, platform: FakePlatform) -> None:
    calls = [{"id": "c1", "function": {"name": "now", "arguments": "{}"}}]
    platform.respond(ROUTE, {"choices": [{"message": {"content": None, "tool_calls": calls}}]})
    assert json.loads(llma(*CHAT, "--nostream").out) == calls


def test_ctrl_c_closes_the_request_and_exits_with_130(platform: FakePlatform, program: list[str], home: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield chunk("token ")
            time.sleep(0.01)

    platform.respond_with(ROUTE, chunks=endless())
    environment = {**os.environ, "LLMARINER_BASE_URL": platform.url}
    with subprocess.Popen(
        [*program, *CHAT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == b"token "
        process.send_signal(signal.SIGINT)
        code, complaint = process.wait(timeout=30), process.stderr.read().decode()
    assert (code, complaint.strip()) == (130, "")
    assert platform.disconnected.wait(timeout=30)
