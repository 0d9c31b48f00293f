"""Requests to tracking servers: what a wrong or hostile server can do, and what its answers mean."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from llmariner.platform.trackers import NewRun, TrackingRefused, TrackingUnavailable
from llmariner.platform.trackers.mlflow import Mlflow
from llmariner.platform.trackers.requests import Server


class Answering(BaseHTTPRequestHandler):
    """Answers each path as the table says; keeps what it was sent."""

    table: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    received: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        length = int(self.headers["content-length"] or 0)
        self.received.append((self.path, dict(self.headers.items()), self.rfile.read(length)))
        status, headers, body = self.table[self.path.rpartition("/")[2]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_POST  # noqa: N815 - the names that the base class calls

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/base"
    server.shutdown()
    server.server_close()


def message(text: str, code: str = "X") -> bytes:
    return json.dumps({"error_code": code, "message": text}).encode()


UNAVAILABLE = {
    "denied": ((401, {}, b""), "refuses the project's credential"),
    "forbidden": ((403, {}, b""), "refuses the project's credential"),
    "busy": ((429, {"retry-after": "7"}, b""), "answers 429"),
    "broken": ((500, {}, b"<html>"), "answers 500"),
    "no-json": ((200, {}, b"<html>"), "something else than JSON"),
    "a-list": ((200, {}, b"[]"), "something else than JSON"),
    "deep": ((200, {}, b"[" * 100_000), "something else than JSON"),
    "large": ((200, {}, b" " * (4 * 1024 * 1024 + 1)), "too large"),
    "short": ((200, {"content-length": "9"}, b"{}"), "does not answer"),
}
REFUSED = {
    "elsewhere": ((307, {"location": "http://127.0.0.1:1/"}, b""), "redirects to another address"),
    "wrong": (
        (400, {}, message("a\x1b[31m run\n was deleted" + "x" * 1000)),
        "it answers 400: a [31m run  was deleted",
    ),
    "graphql": ((409, {}, b'{"errors": [{"message": "run was deleted"}]}'), "it answers 409: run was deleted"),
    "gone": ((404, {}, b"\xff" * 1000), "it answers 404"),
}


def test_what_answers_mean(url: str) -> None:
    Answering.table = {name: answer for name, (answer, _) in {**UNAVAILABLE, **REFUSED}.items()}
    Answering.table["right"] = (200, {}, b'{"a": 1}')
    Answering.table["absent"] = (404, {}, message("no", "NONE"))
    Answering.received = []
    server = Server("MLflow", url, "Bearer s3cret")
    assert server.ask("POST", "/right", {"b": 2}) == {"a": 1}
    path, headers, body = Answering.received.pop()
    assert (path, headers["authorization"], body) == ("/base/right", "Bearer s3cret", b'{"b": 2}')
    assert server.ask("POST", "/absent", {}, absent=frozenset({"NONE"})) is None
    for name, (_, said) in UNAVAILABLE.items():
        with pytest.raises(TrackingUnavailable, match="MLflow at http") as unavailable:
            server.ask("POST", f"/{name}", {})
        assert said in str(unavailable.value), name
        assert unavailable.value.retry_after == (7 if name == "busy" else 0)
    for name, (_, said) in REFUSED.items():
        with pytest.raises(TrackingRefused) as refused:
            server.ask("POST", f"/{name}", {})
        assert said in str(refused.value), name
        assert len(str(refused.value)) < 500
        assert str(refused.value).isprintable()
    server.put("/right", 3, [b"a", b"bc"])
    assert Answering.received[-1][2] == b"abc"
    with pytest.raises(TrackingRefused):
        server.put("/elsewhere", 1, [b"a"])


def test_a_server_that_does_not_end_is_left() -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while True:
                time.sleep(0.05)
                self.wfile.write(b" ")
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with pytest.raises(TrackingUnavailable):
            Server("MLflow", f"http://127.0.0.1:{server.server_port}", None, seconds=1.0).ask("GET", "/")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(TrackingUnavailable, match="does not answer"):
        Server("MLflow", f"http://127.0.0.1:{server.server_port}", None).ask("GET", "/")


@pytest.mark.parametrize("place", ["mlflow-artifacts:/\ud800/x", "mlflow-artifacts:/\0", "mlflow-artifacts://[/x", 7])
def test_a_place_of_artifacts_that_is_none_ends_no_run(url: str, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "get-by-name?experiment_name=p": {"experiment": {"experiment_id": "1"}},
        "search": {"runs": []},
        "create": {"run": {"info": {"run_id": "r", "artifact_uri": place}}},
        "log-batch": {},
    }
    table: dict[str, tuple[int, dict[str, str], bytes]] = {
        name: (200, {}, json.dumps(answer).encode()) for name, answer in answers.items()
    }
    monkeypatch.setattr(Answering, "table", table)
    mlflow = Mlflow(url, None)
    run = mlflow.begin(NewRun("k", "p", "n", 1.0))
    run.place.encode()
    assert "\0" not in run.place
    with pytest.raises(TrackingRefused, match="keeps artifacts at"):
        mlflow.upload(run, "adapter/x", 1, [b"x"])
