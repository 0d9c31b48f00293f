"""The scripted engine behaves as documented: other tests rely on it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("scripted.py")
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "say three words"}]}


class Running:
    """A started engine with the few calls these tests need."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self.process = process

    def open(self, path: str, body: object = None) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        raw = None if body is None else json.dumps(body)
        connection.request("GET" if raw is None else "POST", path, raw)
        return connection

    def call(self, path: str, body: object = None) -> tuple[int, bytes]:
        connection = self.open(path, body)
        try:
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: object) -> dict[str, Any]:
        status, raw = self.call(path, body)
        assert status == 200, raw
        found: dict[str, Any] = json.loads(raw)
        return found

    def events(self, path: str, body: dict[str, Any]) -> list[bytes]:
        status, raw = self.call(path, {**body, "stream": True})
        assert status == 200, raw
        lines = raw.split(b"\n\n")
        assert lines.pop() == b""
        assert all(line.startswith(b"data: ") for line in lines)
        return [line.removeprefix(b"data: ") for line in lines]

    def metric(self, name: str) -> float:
        rows = self.call("/metrics")[1].decode().splitlines()
        return float(next(row.rpartition(" ")[2] for row in rows if row.startswith(f"{name}{{")))

    def eventually(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not fact():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def started(*arguments: str, ready: bool = True) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, str(PROGRAM), "--port", str(port), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        engine = Running(port, process)
        try:
            engine.eventually(lambda: listens(port))
            if ready:
                engine.eventually(lambda: engine.call("/health")[0] == 200)
            yield engine
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def tiny() -> Iterator[Running]:
    with started("--model", "tiny", "--tokens", "3", "--max-running", "1") as engine:
        yield engine


def test_a_chat_response_has_the_requested_tokens_and_their_count(tiny: Running) -> None:
    answer = tiny.post("/v1/chat/completions", {**HELLO, "max_tokens": 5})
    assert answer["object"] == "chat.completion"
    assert len(answer["choices"][0]["message"]["content"].split()) == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 5, 8)


def test_max_completion_tokens_outranks_max_tokens_and_the_default_is_the_command_lines(
    tiny: Running,
) -> None:
    assert tiny.post("/v1/chat/completions", HELLO)["usage"]["completion_tokens"] == 3
    both = {**HELLO, "max_tokens": 5, "max_completion_tokens": 2}
    assert tiny.post("/v1/chat/completions", both)["usage"]["completion_tokens"] == 2


def test_a_completion_responds_with_text(tiny: Running) -> None:
    answer = tiny.post("/v1/completions", {"model": "tiny", "prompt": [1, 2, 3, 4], "max_tokens": 2})
    assert answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"].split()) == 2
    assert answer["usage"]["prompt_tokens"] == 4


def test_the_raw_body_and_headers_are_echoed(tiny: Running) -> None:
    body = {**HELLO, "a_field_of_the_future": {"deep": [1, None]}}
    answer = tiny.post("/v1/chat/completions", body)
    assert answer["x_received"] == json.dumps(body)
    assert answer["x_received_headers"]["host"] == f"127.0.0.1:{tiny.port}"


def test_a_stream_has_a_role_then_one_chunk_per_token_then_done(tiny: Running) -> None:
    events = tiny.events("/v1/chat/completions", HELLO)
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [bool(chunk["choices"][0]["delta"]["content"]) for chunk in chunks[1:]] == [True] * 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert not any("usage" in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_include_usage_adds_one_last_chunk_without_choices(tiny: Running) -> None:
    events = tiny.events("/v1/chat/completions", {**HELLO, "stream_options": {"include_usage": True}})
    last = json.loads(events[-2])
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}
    assert not any(b'"usage"' in event for event in events[:-2])


def test_a_stream_with_continuous_usage_has_vllms_bytes(tiny: Running) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = tiny.events("/v1/chat/completions", {**HELLO, "max_tokens": 2, "stream_options": options})
    head = events[0].partition(b"[")[0]
    assert head.startswith(b'{"id":"chatcmpl-')
    assert [event.removeprefix(head) for event in events] == [
        b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":'
        b'{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0,"completion_tokens_details":null},'
        b'"prompt_token_ids":null,"prompt_text":null}',
        b'[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":'
        b'{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"completion_tokens_details":null}}',
        b'[{"index":0,"delta":{"content":" river"},"logprobs":null,"finish_reason":"length","stop_reason":null,'
        b'"token_ids":null}],"usage":'
        b'{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2,"completion_tokens_details":null}}',
        b'[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2},'
        b'"system_fingerprint":"vllm-0.32.0-scripted"}',
        b"[DONE]",
    ]
    plain = tiny.events("/v1/completions", {"model": "tiny", "prompt": "a b", "stream_options": options})
    assert plain[0].endswith(b',"usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1}}')


def test_stream_options_without_stream_are_rejected(tiny: Running) -> None:
    status, raw = tiny.call("/v1/chat/completions", {**HELLO, "stream_options": {"include_usage": True}})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "stream_options")


def test_only_served_models_respond(tiny: Running) -> None:
    status, raw = tiny.call("/v1/chat/completions", {**HELLO, "model": "other"})
    assert (status, json.loads(raw)["error"]["code"]) == (404, 404)
    assert [row["id"] for row in json.loads(tiny.call("/v1/models")[1])["data"]] == ["tiny"]
    with started() as engine:
        assert engine.post("/v1/chat/completions", {**HELLO, "model": "other"})["model"] == "other"


def test_equal_texts_have_equal_vectors_in_both_encodings(tiny: Running) -> None:
    body = {"model": "tiny", "input": ["a b", "c", "a b"], "dimensions": 4}
    rows = tiny.post("/v1/embeddings", body)["data"]
    assert rows[0]["embedding"] == rows[2]["embedding"] != rows[1]["embedding"]
    assert len(rows[0]["embedding"]) == 4
    packed = tiny.post("/v1/embeddings", {**body, "encoding_format": "base64"})["data"]
    assert isinstance(packed[0]["embedding"], str)


def test_detokenize_reverses_tokenize(tiny: Running) -> None:
    tokens = tiny.post("/tokenize", {"model": "tiny", "prompt": "stones and stones"})
    assert tokens["count"] == 3
    assert tokens["tokens"][0] == tokens["tokens"][2] != tokens["tokens"][1]
    assert tiny.post("/detokenize", {"tokens": tokens["tokens"]}) == {"prompt": "stones and stones"}


def test_the_counters_are_correct_and_a_full_batch_queues_requests(tiny: Running) -> None:
    made, read = tiny.metric("vllm:generation_tokens_total"), tiny.metric("vllm:prompt_tokens_total")
    slow = {**HELLO, "max_tokens": 5, "x_script": {"delay_ms": 300}}
    first, second = tiny.open("/v1/chat/completions", slow), tiny.open("/v1/chat/completions", HELLO)
    tiny.eventually(lambda: tiny.metric("vllm:num_requests_waiting") == 1)
    assert tiny.metric("vllm:num_requests_running") == 1
    for connection in (first, second):
        assert connection.getresponse().status == 200
        connection.close()
    assert (tiny.metric("vllm:num_requests_running"), tiny.metric("vllm:num_requests_waiting")) == (0, 0)
    assert tiny.metric("vllm:generation_tokens_total") - made == 8
    assert tiny.metric("vllm:prompt_tokens_total") - read == 6


def test_connections_are_counted(tiny: Running) -> None:
    before = tiny.metric("scripted:connections_total")
    connection = tiny.open("/v1/chat/completions", HELLO)
    for _ in range(3):
        connection.getresponse().read()
        connection.request("GET", "/health")
    connection.close()
    assert tiny.metric("scripted:connections_total") - before == 2  # this one, and the one that asks


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_disconnect_aborts_the_request_and_admits_the_next(tiny: Running, stream: bool) -> None:
    endless = {**HELLO, "stream": stream, "max_tokens": 10**6, "x_script": {"token_interval_ms": 5}}
    leaving, staying = tiny.open("/v1/chat/completions", endless), tiny.open("/v1/chat/completions", HELLO)
    tiny.eventually(lambda: tiny.metric("vllm:num_requests_waiting") == 1)
    leaving.close()
    assert staying.getresponse().status == 200
    staying.close()
    made = tiny.metric("vllm:generation_tokens_total")
    time.sleep(0.05)
    assert tiny.metric("vllm:generation_tokens_total") == made


def test_a_stalled_reader_stops_the_generation(tiny: Running) -> None:
    flood = {**HELLO, "stream": True, "max_tokens": 10**6, "x_script": {"huge_chunk_bytes": 8 << 20}}
    connection = tiny.open("/v1/chat/completions", flood)
    tiny.eventually(lambda: tiny.metric("vllm:num_requests_running") == 1)
    time.sleep(0.2)
    made = tiny.metric("vllm:generation_tokens_total")
    time.sleep(0.1)
    assert tiny.metric("vllm:generation_tokens_total") == made
    connection.close()
    tiny.eventually(lambda: tiny.metric("vllm:num_requests_running") == 0)


@pytest.mark.quiet
def test_a_script_sets_pace_and_length(tiny: Running) -> None:
    begun = time.monotonic()
    script = {"delay_ms": 100, "token_interval_ms": 50, "huge_chunk_bytes": 1 << 20}
    events = tiny.events("/v1/chat/completions", {**HELLO, "x_script": script})
    assert 0.25 <= time.monotonic() - begun < 1
    assert len(json.loads(events[1])["choices"][0]["delta"]["content"]) == 1 << 20


def test_a_script_fails_with_its_status_and_an_unknown_one_is_rejected(tiny: Running) -> None:
    for script, status in (({"fail_status": 429}, 429), ({"fail_statsu": 429}, 400)):
        assert tiny.call("/v1/chat/completions", {**HELLO, "x_script": script})[0] == status


def test_the_engine_crashes_mid_stream_after_the_scripted_tokens() -> None:
    with started() as engine:
        connection = engine.open(
            "/v1/completions", {"prompt": "a", "stream": True, "x_script": {"crash_after_tokens": 2}}
        )
        with pytest.raises(http.client.IncompleteRead) as cut:
            connection.getresponse().read()
        connection.close()
        assert cut.value.partial.count(b"data: ") == 2
        assert engine.process.wait(5) == -signal.SIGKILL


def test_the_crash_option_counts_tokens_across_requests() -> None:
    with started("--crash-after-tokens", "5", "--tokens", "3") as engine:
        assert engine.call("/v1/chat/completions", HELLO)[0] == 200
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            engine.call("/v1/chat/completions", HELLO)


def test_every_request_is_503_before_the_engine_is_ready() -> None:
    with started("--ready-after", "0.5", ready=False) as engine:
        assert engine.call("/health")[0] == 503
        assert engine.call("/v1/chat/completions", HELLO)[0] == 503
        engine.eventually(lambda: engine.call("/health")[0] == 200)


def test_a_failed_load_ends_the_process_with_its_reason() -> None:
    with started("--fail-load", "--ready-after", "0.2", ready=False) as engine:
        assert engine.process.wait(5) == 1
        assert engine.process.stderr is not None
        assert "could not be loaded" in engine.process.stderr.read()
