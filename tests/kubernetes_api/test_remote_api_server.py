"""Responses of API servers that belong to others: one can neither hold a thread for ever nor break its reader."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmariner.errors import Unavailable
from llmariner.platform import kube
from llmariner.platform.kube import Cluster, connection
from llmariner.platform.kube.connection import Connection
from llmariner.platform.kube.errors import Expired
from llmariner.platform.kube.remote_server import RemoteServer
from llmariner.platform.kube.resources import PODS
from llmariner.platform.kube.watch import ResourceQuery

paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers without an end, or with what is nested without one."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        paths.append(self.path)
        self.send_response(410 if "/expired/" in self.path else 200)
        self.end_headers()
        if self.path.endswith("/deep"):
            self.wfile.write(b"[" * 200_000)
            return
        if "/pages/" in self.path or "/expired/" in self.path:
            self.wfile.write(b'{"code": 410, "reason": "Expired", "metadata": {"continue": "more"}, "items": []}')
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


@pytest.mark.parametrize(("namespace", "error"), [("pages", Unavailable), ("expired", Expired)])
def test_a_list_without_an_end_ends(url: str, namespace: str, error: type[Exception]) -> None:
    server = Connection(RemoteServer(url, lambda: "token"))
    assert (server.list_bytes, server.list_seconds) == (64 * 1024 * 1024, 60)
    server.list_bytes = 1024 * 1024
    with pytest.raises(error):
        ResourceQuery(server, PODS, namespace, None, None).list()


def test_a_list_of_slow_pages_ends(url: str) -> None:
    server = Connection(RemoteServer(url, lambda: "token"))
    server.list_bytes, server.list_seconds = math.inf, 0.1
    with pytest.raises(Unavailable):
        ResourceQuery(server, PODS, "pages", None, None).list()


def test_output_that_is_skipped_for_ever_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_LOG_TOTAL_SECONDS", 0.2)
    with pytest.raises(Unavailable):
        Cluster(RemoteServer(url, lambda: "token")).pod_log("ns", "pod", "main", skip=1 << 60, limit=10)
