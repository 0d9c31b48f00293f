"""Responses of API servers that belong to others: one can neither hold a thread for ever nor break its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmariner.errors import Unavailable
from llmariner.platform.kube import connection
from llmariner.platform.kube.connection import Connection
from llmariner.platform.kube.remote_server import RemoteServer
from llmariner.platform.kube.resources import PODS

paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers without an end, or with what is nested without one."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        paths.append(self.path)
        self.send_response(200)
        self.end_headers()
        if self.path.endswith("/deep"):
            self.wfile.write(b"[" * 200_000)
            return
        try:
            while not self.server.ended.is_set():  # type: ignore[attr-defined]
                self.wfile.write(b" ")
                time.sleep(0.02)
        except OSError:
            pass  # the client is gone


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ended = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.ended.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_byte_by_byte_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BODY_SECONDS", 0.2)
    with pytest.raises(Unavailable):
        Connection(RemoteServer(url, lambda: "token")).request("GET", "/slow")


def test_an_answer_that_is_nested_too_deep_is_none(url: str) -> None:
    with pytest.raises(Unavailable):
        Connection(RemoteServer(url, lambda: "token")).request("GET", "/deep")


def test_a_name_that_a_cluster_invents_leads_to_no_other_path(url: str) -> None:
    for name in ("..", ".", "../../victim", "a b\r\n", "%2e%2e"):
        path = PODS.path("ns", name)
        with pytest.raises(Unavailable):
            Connection(RemoteServer(f"{url}/internal", lambda: "token")).request("GET", f"{path}/deep")
        assert paths.pop().startswith("/internal/api/v1/namespaces/ns/pods/")
