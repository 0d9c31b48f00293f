"""Servers that answer what no platform does: without an end, of another form, or to control the terminal."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.sign_in.issuer import AuthorizationRequest, IssuerClient
from llmariner.cli.support import response_bodies, server_sent_events
from llmariner.cli.support.errors import CommandError
from llmariner.cli.support.prompts import prompt_organization
from llmariner.cli.support.terminal import OutputStream

from .workspace_cases import NOTEBOOK

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

CHAT = ["chat", "completions", "create", "--model", "m", "--role", "user", "--completion", "Hi"]
TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"\x1f\x8bno gzip", {"content-encoding": "gzip"}),
        (b'{"error":' + b"[" * 100_000, {}),
        (b"[" * 100_000 + b"]" * 100_000, {}),
        (b'{"data": \xff}', {}),
    ],
)
def test_a_body_that_can_not_be_read_is_an_error_of_the_server(
    raw: bytes, headers: dict[str, str], status: int, llma: Llma, platform: FakePlatform
) -> None:
    platform.respond_with("GET /models", raw=raw, headers=headers, status=status)
    result = llma("models", "list")
    assert (result.code, result.err.count("Error: ")) == (5, 1), result.err


def test_a_document_without_an_end_or_that_is_large_once_decompressed_is_refused(
    llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_bodies, "_MAX_BYTES", 1 << 20)
    platform.respond_with("GET /models", chunks=itertools.repeat(b" " * 65536))
    assert (llma("models", "list").code, platform.disconnected.wait(10)) == (5, True)
    small = gzip.compress(b" " * (4 << 20))
    platform.respond_with("GET /models", raw=small, headers={"content-encoding": "gzip"})
    result = llma("models", "list")
    assert (result.code, "1 MiB" in result.err) == (5, True), result.err
    platform.respond_with("GET /models", chunks=itertools.repeat(b"no " * 20_000), status=500)
    assert llma("models", "list").code == 5


@pytest.mark.parametrize("packed", [False, True], ids=["without an end", "compressed"])
@pytest.mark.parametrize("endpoint", ["/.well-known/openid-configuration", "/token"])
def test_an_answer_of_an_issuer_is_read_to_a_mebibyte(endpoint: str, packed: bool, platform: FakePlatform) -> None:
    base = platform.url
    known = {"issuer": base, "token_endpoint": f"{base}/token"}
    platform.respond("GET /.well-known/openid-configuration", known)
    large: dict[str, Any] = {"chunks": itertools.repeat(b" " * 65536)}
    if packed:
        large = {"raw": gzip.compress(b" " * (4 << 20)), "headers": {"content-encoding": "gzip"}}
    platform.respond_with(f"{'POST' if endpoint == '/token' else 'GET'} {endpoint}", **large)
    with IssuerClient(base, "llmariner") as issuer, pytest.raises(CommandError, match="more than 1 MiB"):
        issuer.exchange_code(AuthorizationRequest.new(), {"code": "c"}, "http://127.0.0.1/")


@pytest.mark.parametrize("part", [b"x" * 65536, b"data: " + b"x" * 1024 + b"\n"])
def test_a_part_of_a_stream_without_an_end_is_refused(
    part: bytes, llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_sent_events, "_MAX_BYTES", 1 << 20)
    platform.respond_with("POST /chat/completions", chunks=itertools.repeat(part))
    result = llma(*CHAT)
    assert (result.code, "1 MiB" in result.err) == (5, True), result.err


def test_a_list_that_leads_back_to_a_page_ends(llma: Llma, platform: FakePlatform) -> None:
    page = {"data": [{"id": "key_1"}], "has_more": True}
    platform.respond("GET /organization/admin_api_keys", page)
    platform.respond("GET /models", page)
    result = llma("models", "list")
    assert (result.code, "does not end" in result.err) == (5, True), result.err
    assert len(platform.requests) == 2


@pytest.mark.parametrize("data", [[7], ["x"], [{"id": "m", "created": 10**400}], [{"id": "m", "serving": "x"}]])
def test_a_document_of_another_form_is_an_error_of_the_server(
    data: list[Any], llma: Llma, platform: FakePlatform
) -> None:
    platform.respond("GET /models", {"object": "list", "data": data})
    result = llma("models", "list")
    assert (result.code, "in another form" in result.err) == (5, True), result.err


def test_a_stream_of_another_form_is_an_error_of_the_server(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_with("POST /chat/completions", chunks=[b'data: {"choices": [7]}\n\n'])
    result = llma(*CHAT)
    assert (result.code, "in another form" in result.err) == (5, True), result.err


@pytest.mark.parametrize("url", ["file:///etc/passwd", "vscode://open", "--help", "\x1b]0;x\x07"])
def test_a_link_that_is_no_web_address_is_not_opened(
    url: str, llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    running = {**NOTEBOOK, "name": "n", "status": "running"}
    platform.respond("GET /workspaces/notebooks", {"notebooks": [running], "has_more": False})
    platform.respond(f"POST /workspaces/notebooks/{NOTEBOOK['id']}/actions:open", {"url": url, "path": "/"})
    result = llma("workspace", "notebooks", "open", "n")
    assert (result.code, opened, "\x1b" in result.err) == (5, [], False)


def test_a_usage_error_that_quotes_a_server_has_no_control_sequences(llma: Llma, platform: FakePlatform) -> None:
    stopped = {**NOTEBOOK, "name": "n", "status": f"stopped{TITLE}"}
    platform.respond("GET /workspaces/notebooks", {"notebooks": [stopped], "has_more": False})
    result = llma("workspace", "notebooks", "open", "n")
    assert (result.code, "stopped" in result.err, "\x1b" in result.err) == (2, True, False)


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "a ä]0;owned\nb\nc\n"), (False, f"a ä{TITLE}\r\nb\rc\n")], ids=["terminal", "pipe"]
)
def test_bytes_of_others_are_exact_but_on_a_terminal_where_they_control_nothing(terminal: bool, shown: str) -> None:
    written = io.BytesIO()
    kind = _Terminal if terminal else io.TextIOWrapper
    output = OutputStream(kind(written, encoding="utf-8", newline=""))
    raw = f"a ä{TITLE}\r\nb\rc\n".encode()
    for part in (raw[:3], raw[3:]):
        output.write(part)
    assert written.getvalue().decode() == shown


@pytest.mark.parametrize(
    "line", ["batch jobs logs job_1", "batch jobs exec job_1 -- id", "storage files download f1 --file -"]
)
def test_what_programs_and_files_say_controls_no_terminal(
    line: str, llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"type": "output", "stream": "stdout", "data": base64.b64encode(f"said{TITLE}".encode()).decode()}
    ended = {"type": "exit", "exit_code": 0}
    chunks = [f"data: {json.dumps(each)}\n\n".encode() for each in (event, ended)]
    platform.respond_with("POST /batch/jobs/job_1/exec", chunks=chunks)
    for route in ("GET /batch/jobs/job_1/logs", "GET /files/f1/content"):
        platform.respond_with(route, raw=f"said{TITLE}".encode())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    result = llma(*line.split())
    assert (result.code, "said" in result.out, "\x1b" in result.out) == (0, True, False), result.err


def test_names_in_a_prompt_control_no_terminal(
    llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmariner.cli.support.configuration import resolve_target
    from llmariner.settings import environment

    platform.respond("GET /organizations", {"organizations": [{"id": "org_1", "title": f"Team{TITLE}"}]})
    monkeypatch.setattr("click.prompt", lambda *_, **__: "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert prompt_organization(resolve_target(environment(), endpoint=platform.url), "") == "org_1"
    written = capsys.readouterr().out
    assert ("Team" in written, "\x1b" in written) == (True, False)
