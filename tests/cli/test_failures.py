"""Messages and exit codes of failed commands."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.support.api import ApiClient
from llmariner.cli.support.configuration import resolve_target
from llmariner.cli.support.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import FakePlatform, Llma


@dataclass(frozen=True)
class Refused:
    """An error answer, the exit code it means, and words of the advice."""

    status: int
    code: int
    advice: str
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


REFUSALS = [
    Refused(400, 1, "change the request"),
    Refused(401, 3, "the key came from LLMARINER_API_KEY"),
    Refused(403, 3, "a key with the scope"),
    Refused(404, 4, "`llma models list`", {"code": "model_not_found"}),
    Refused(404, 4, "it ends in /v1", {"code": "unknown_url"}),
    Refused(404, 4, "check the id"),
    Refused(405, 1, "`llma version`"),
    Refused(409, 1, "list what exists"),
    Refused(413, 1, "send less"),
    Refused(422, 1, "change the request"),
    Refused(429, 1, "again in 7 s", {"code": "rate_limit_exceeded"}, {"retry-after": "7"}),
    Refused(429, 1, "wait a moment"),
    Refused(429, 1, "`llma usage list`", {"code": "insufficient_quota"}, {"retry-after": "7"}),
    Refused(500, 5, "`llma status` and `llma logs`"),
    Refused(502, 5, "`llma status` and `llma logs`", {"code": "engine_error"}),
    Refused(503, 5, "again in 9 s", {"code": "model_not_ready"}, {"retry-after": "9"}),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.status}-{case.error.get('code')}")
def test_a_rejection_has_an_exit_code_and_a_next_step(case: Refused, llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error("GET /models", case.status, message="The very words.", headers=case.headers, **case.error)
    result = llma("models", "list")
    assert result.code == case.code
    error, advice, request = result.err.splitlines()
    assert error.startswith("Error: The very words. [")
    assert str(case.status) in error
    assert case.advice in advice
    assert request == "Request: req_42"
    assert result.out == ""


def test_a_waking_models_progress_is_shown(llma: Llma, platform: FakePlatform) -> None:
    facts = {"phase": "loading", "progress": 0.25, "estimate_seconds": 30.4}
    platform.respond_error("POST /embeddings", 503, message="It sleeps.", headers={"retry-after": "30"}, **facts)
    result = llma("embeddings", "create", "--model", "m", "--input", "x")
    assert "Error: It sleeps. (loading, 25%, about 30 s left) [503]" in result.err


@pytest.mark.parametrize("phase", ["asleep", "ready", "stopping", "failed"])
def test_a_phase_without_loading_has_no_progress(phase: str, llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error("GET /models", 503, message="No.", phase=phase, progress=0.5, estimate_seconds=3)
    assert f"Error: No. ({phase}) [503]" in llma("models", "list").err


def test_without_a_key_a_401_explains_how_to_set_one(
    bare_llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMARINER_BASE_URL", platform.url)
    platform.respond_error("GET /models", 401)
    result = bare_llma("models", "list")
    assert result.code == 3
    assert "set LLMARINER_API_KEY" in result.err
    assert "authorization" not in platform.requests[0].headers


def test_without_a_server_the_advice_is_to_start_the_platform(bare_llma: Llma) -> None:
    with socket.socket() as taken:  # bound but not listening: a port that certainly refuses
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        result = bare_llma("models", "list", "--endpoint", endpoint)
    assert result.code == 6
    assert "run `llma up`" in result.err
    assert f"{endpoint} (--endpoint)" in result.err


def test_an_unresolvable_name_is_unreachable(bare_llma: Llma) -> None:
    result = bare_llma("models", "list", "--endpoint", "http://nowhere.invalid/v1")
    assert result.code == 6
    assert "check --endpoint and the network" in result.err


BROKEN: list[tuple[str, dict[str, Any], int, str]] = [
    ("not JSON", {"raw": b"<html>hello</html>"}, 5, "did not answer with JSON"),
    ("not an object", {"raw": b"[]"}, 5, "did not answer with a JSON object"),
    ("connection dropped", {"drop": True}, 5, "broke"),
    ("cut short", {"raw": b"{", "headers": {"content-length": "9", "connection": "close"}}, 5, "broke"),
    ("a proxy's page", {"status": 502, "raw": b"\n<h1>Bad Gateway</h1>\n"}, 5, "<h1>Bad Gateway</h1>"),
    ("an empty error", {"status": 500, "raw": b""}, 5, "answered 500 and said nothing"),
    ("an error as text", {"status": 400, "raw": b'{"error": "bad things"}'}, 1, "bad things"),
    ("another shape", {"status": 400, "raw": b'{"detail": [1]}'}, 1, '{"detail": [1]}'),
    ("a redirect", {"status": 307, "headers": {"location": "https://x/"}, "raw": b""}, 1, "as --endpoint"),
]


@pytest.mark.parametrize(("answer", "code", "words"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_response_of_another_server_is_named(
    answer: dict[str, Any], code: int, words: str, llma: Llma, platform: FakePlatform
) -> None:
    platform.respond_with("GET /models", **answer)
    result = llma("models", "list")
    assert result.code == code
    assert words in result.err
    assert "Next: " in result.err


def test_a_server_that_times_out_is_a_server_error(home: Path, platform: FakePlatform) -> None:
    answered = threading.Event()

    def late() -> Iterator[bytes]:
        answered.wait(5)
        yield b"{}"

    platform.respond_with("GET /models", chunks=late())
    target = resolve_target({"LLMARINER_BASE_URL": platform.url})
    with ApiClient(target, timeout_seconds=0.2) as api, pytest.raises(CommandError) as caught:
        api.get("models")
    answered.set()
    assert caught.value.code == ExitCode.SERVER_ERROR
    assert "did not answer in time" in caught.value.message


USAGE = [
    ("models", "get"),
    ("models", "get", ""),
    ("models", "get", "../api_keys"),
    ("modles", "list"),
    ("models", "list", "--output", "xml"),
    ("models", "list", "--endpoint", "localhost:8080"),
    ("models", "update", "m"),
    ("models", "update", "m", "--extra-args=--a", "--clear-extra-args"),
    ("chat", "completions", "create", "--model", "m", "--role", "user"),
    ("chat", "completions", "create", "--model", "m", "--role", "a", "--role", "b", "--completion", "c"),
    ("chat", "completions", "create", "--role", "user", "--completion", "c"),
    ("completions", "create", "--prompt", "p"),
    ("completions", "create", "--model", "m"),
    ("embeddings", "create", "--model", "m"),
    ("embeddings", "create", "--input", "x"),
    ("tokenize", "--model", "m"),
    ("tokenize", "--prompt", "p"),
    ("detokenize", "1"),
    ("detokenize", "--model", "m"),
    ("models", "create", "base", "m"),
    ("auth", "api-keys", "update", "n"),
    ("usage", "list", "--days", "0"),
    ("events", "list", "--limit", "0"),
    ("chat", "completions", "create", "--model", "m", "--role", "u", "--completion", "c", "--temperature", "3"),
    ("detokenize", "--model", "m", "one"),
    ("auth", "api-keys", "create", "n", "--expires-in", "0"),
    ("storage", "files", "get", "../models"),
    ("storage", "files", "create-link", "--purpose", "batch"),
    ("storage", "vector-stores", "create", "n", "--metadata", "team"),
    ("storage", "vector-stores", "create", "n", "--chunk-tokens", "200"),
    ("storage", "vector-stores", "search", "n", "q", "--filter", "year=2026"),
    ("storage", "vector-stores", "search", "n", "q", "--filter", "[]"),
    ("storage", "vector-stores", "search", "n", "q", "--max-results", "51"),
    ("storage", "vector-stores", "delete-file", "n"),
]


@pytest.mark.parametrize("line", USAGE, ids=" ".join)
def test_a_usage_error_exits_with_2_without_a_request(
    line: tuple[str, ...], llma: Llma, platform: FakePlatform
) -> None:
    result = llma(*line)
    assert result.code == 2
    assert "--help" in result.err or "Next: " in result.err
    assert platform.requests == []


def test_a_misspelled_command_gets_a_suggestion(llma: Llma) -> None:
    assert "Did you mean 'models'?" in llma("modles").err


def test_a_key_that_no_header_can_contain_is_rejected_before_the_request(
    llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMARINER_API_KEY", "sk-abc\nx: y")
    result = llma("models", "list")
    assert (result.code, platform.requests) == (2, [])
    assert "sk-abc" not in result.err


def test_an_ambiguous_key_name_lists_the_ids(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /api_keys", {"data": [{"id": "key_1", "name": "ci"}, {"id": "key_2", "name": "ci"}]})
    result = llma("auth", "api-keys", "delete", "ci")
    assert result.code == 2
    assert "give the id: key_1, key_2" in result.err
    assert [request.method for request in platform.requests] == ["GET"]


def test_a_vector_stores_name_may_look_like_an_id(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error("GET /vector_stores/vs_x", 404)
    platform.respond("GET /vector_stores", {"data": [{"id": "vs_1", "name": "vs_x"}, {"id": "vs_2", "name": "other"}]})
    platform.respond("DELETE /vector_stores/vs_1", {})
    assert llma("storage", "vector-stores", "delete", "vs_x").code == 0
    assert platform.requests[1].query["name"] == "vs_x"


def test_an_unknown_key_is_not_found(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /api_keys", {"data": []})
    assert llma("auth", "api-keys", "rotate", "ci").code == 4


def test_control_sequences_of_a_server_are_not_printed(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error("GET /models", 400, message="\x1b]0;owned\x07 \x9b2J")
    err = llma("models", "list").err
    assert "\x1b" not in err
    assert "\x9b" not in err
