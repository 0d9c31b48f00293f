"""The agent's way to the control plane: proxies, redirects, refusals, broken answers, and keys that change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmariner.agent.control_plane import ControlPlane, NotReached, Refused
from llmariner.agent_settings import AgentSettings


class Answering:
    """A server that gives one answer, and what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b'{"protocol_version": 1}', {"x": "y"}
        self.asked: list[tuple[str, str, Any]] = []
        answering = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answering.asked.append((self.path, self.headers["authorization"], sent))
                self.send_response(answering.status)
                for name, value in answering.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answering.body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    answering = Answering()
    yield answering
    answering.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("clusterkey-1\n")
    return tmp_path / "key"


def settings(url: str, key_file: Path, **env: str) -> AgentSettings:
    return AgentSettings.load({"LLMARINER_AGENT_CONTROL_PLANE": url, "LLMARINER_AGENT_KEY_FILE": str(key_file), **env})


def test_a_heartbeat_carries_the_present_key(server: Answering, key_file: Path) -> None:
    control_plane = ControlPlane(settings(server.url + "/v1/", key_file))
    assert control_plane.report({"a": 1}) == {"protocol_version": 1}
    key_file.write_text("clusterkey-2")
    control_plane.report({"a": 2})
    path = "/v1/clusters/agent/heartbeats"
    assert server.asked == [(path, "Bearer clusterkey-1", {"a": 1}), (path, "Bearer clusterkey-2", {"a": 2})]
    key_file.write_text("two\nlines")
    with pytest.raises(NotReached):
        control_plane.report({})
    key_file.unlink()
    with pytest.raises(NotReached):
        control_plane.report({})


def test_a_redirect_is_not_followed(server: Answering, key_file: Path) -> None:
    elsewhere = Answering()
    server.status, server.headers = 307, {"location": elsewhere.url}
    with pytest.raises(Refused) as raised:
        ControlPlane(settings(server.url, key_file)).report({})
    elsewhere.close()
    assert (raised.value.status, elsewhere.asked) == (307, [])


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error": {"message": "This key is unknown."}}', "This key is unknown."),
        (502, b"<html>", "Bad Gateway"),
        (500, b"[]", "Internal Server Error"),
    ],
)
def test_a_refusal_says_why(server: Answering, key_file: Path, status: int, body: bytes, message: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(Refused, match=message) as raised:
        ControlPlane(settings(server.url, key_file)).report({})
    assert raised.value.status == status


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"x" * 2_000_000])
def test_a_broken_answer_is_no_answer(server: Answering, key_file: Path, body: bytes) -> None:
    server.body = body
    with pytest.raises(NotReached):
        ControlPlane(settings(server.url, key_file)).report({})


def test_a_proxy_of_the_environment_is_used(server: Answering, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    url = "http://control-plane.invalid"
    ControlPlane(settings(url, key_file, LLMARINER_AGENT_PLAIN_HTTP="1")).report({})
    assert server.asked[0][0] == f"{url}/v1/clusters/agent/heartbeats"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "https:// URL of the control plane"),
        ({"LLMARINER_AGENT_CONTROL_PLANE": "http://llm.example.org"}, "LLMARINER_AGENT_PLAIN_HTTP"),
        ({"LLMARINER_AGENT_CONTROL_PLANE": "https://a:b@llm.example.org"}, "without a user"),
        ({"LLMARINER_AGENT_CONTROL_PLANE": "https://x", "LLMARINER_AGENT_CA_FILE": "/none"}, "LLMARINER_AGENT_CA_FILE"),
        ({"LLMARINER_AGENT_CONTROL_PLANE": "https://x", "LLMARINER_AGENT_GPU_NAMESPACE": "a/b"}, "GPU_NAMESPACE"),
    ],
)
def test_wrong_settings_name_the_variable(env: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AgentSettings.load(env)
