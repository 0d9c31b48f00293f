"""The test cluster's ingress controller survives an API server that refuses a watch for a moment."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from .lab.api import Api
from .lab.ingress import Carrier

PATH = "/apis/networking.internal.knative.dev/v1alpha1/ingresses"
REFUSALS = (
    (429, b'{"kind": "Status", "code": 429, "message": "storage is (re)initializing"}\n'),
    (410, b'{"kind": "Status", "code": 410, "message": "too old resource version"}\n'),
    (502, b"bad gateway"),
)


class Server(ThreadingHTTPServer):
    """Lists nothing, refuses the first watches, then sends one change."""

    daemon_threads = True
    refusals = iter(REFUSALS)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, body = 200, b'{"metadata": {"resourceVersion": "1"}, "items": []}'
        if "watch" in parse_qs(urlsplit(self.path).query):
            change = {"type": "ADDED", "object": {"metadata": {"name": "changed"}}}
            status, body = next(self.server.refusals, (200, json.dumps(change).encode() + b"\n"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Arrived(BaseException):
    """Ends what follows changes forever."""


class PlainApi(Api):
    """Of a server of the test, without TLS."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _connect(self, timeout: float) -> Any:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)


@pytest.fixture
def api() -> Iterator[Api]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield PlainApi(server.server_port)
        server.shutdown()


def test_a_watch_resumes_after_the_api_server_refused_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)

    def take(change: dict[str, Any]) -> None:
        raise _Arrived(change["object"]["metadata"]["name"])

    with pytest.raises(_Arrived, match="changed"):
        Carrier(api)._follow(PATH, take)
    said = capsys.readouterr().err
    assert "429: storage is (re)initializing" in said
    assert "502: bad gateway" in said
