"""A scripted platform and a way to run `llma` against it.

The platform is a real HTTP server in this process that answers what a test dictates and keeps what it was asked; `llma`
runs in this process too, through the same `main` that the installed program calls.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmariner.cli.main import main

API_KEY = "sk-test-0123456789abcdefghijklmnop"
"""What the tests send; it must appear in no output that did not ask for it."""


@dataclass(frozen=True)
class Answer:
    """What the platform says. `chunks` makes it a stream of bytes, written one by one; `drop` cuts it off."""

    document: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    chunks: Iterable[bytes] | None = None
    drop: bool = False


@dataclass(frozen=True)
class Request:
    """What the platform was asked. `path` is as it came, percent-encoding and all."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any


class Platform:
    """A scripted API. A route that is not scripted answers as a real one does: 404, unknown_url."""

    def __init__(self) -> None:
        self._answers: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []
        self.hung_up = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"platform": self}))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, route: str, *documents: dict[str, Any]) -> None:
        """Script a route (`GET /models`): one document after the other, the last one for ever."""
        self._answers[route] = [Answer(document) for document in documents]

    def then(self, route: str, *documents: dict[str, Any]) -> None:
        """Script what follows the answers that a route has already."""
        self._answers[route] += [Answer(document) for document in documents]

    def say(self, route: str, **answer: Any) -> None:
        """Script a route with an answer that is no plain document; the fields of `Answer`."""
        self._answers[route] = [Answer(**answer)]

    def refuse(self, route: str, status: int, *, message: str = "No.", headers: Any = None, **error: Any) -> None:
        """Script an error in OpenAI's envelope, with a request id; `error` holds more of its fields."""
        self._answers[route] = [_refusal(status, {"message": message, **error}, headers or {})]

    def next_answer(self, route: str) -> Answer:
        answers = self._answers.get(route)
        if answers is None:
            return _refusal(404, {"code": "unknown_url", "message": f"Unknown request URL: {route}."}, {})
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _refusal(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    envelope = {"error": {"type": "invalid_request_error", "param": None, "code": None, **error}}
    return Answer(envelope, status=status, headers={"x-request-id": "req_42", **headers})


class _Handler(BaseHTTPRequestHandler):
    platform: Platform
    protocol_version = "HTTP/1.1"
    timeout = 20

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = parts.path.removeprefix("/v1")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.platform.requests.append(Request(self.command, path, query, headers, body))
        self._say(self.platform.next_answer(f"{self.command} {path}"))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _say(self, answer: Answer) -> None:
        if answer.drop:
            self.close_connection = True
        elif answer.chunks is not None:
            self._stream(answer)
        else:
            raw = json.dumps(answer.document).encode() if answer.raw is None else answer.raw
            self._head(answer, {"content-type": "application/json", "content-length": str(len(raw))})
            self.wfile.write(raw)

    def _stream(self, answer: Answer) -> None:
        self._head(answer, {"content-type": "text/event-stream", "connection": "close"})
        self.close_connection = True
        try:
            for chunk in answer.chunks or ():
                self.wfile.write(chunk)
        except OSError:
            self.platform.hung_up.set()

    def _head(self, answer: Answer, defaults: Mapping[str, str]) -> None:
        self.send_response(answer.status)
        for name, value in {**defaults, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `requests` instead."""


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Llma = Callable[..., Result]


@pytest.fixture
def api_key() -> str:
    return API_KEY


@pytest.fixture
def platform() -> Iterator[Platform]:
    server = Platform()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's empty home, and an environment that says nothing of any platform."""
    names = ("BASE_URL", "API_KEY", "PORT", "HOST", "CACHE")
    for name in (*(f"LLMARINER_{name}" for name in names), "XDG_CONFIG_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLMARINER_HOME", str(tmp_path / ".llmariner"))
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path


@pytest.fixture
def bare_llma(home: Path, capsys: pytest.CaptureFixture[str]) -> Llma:
    """Run a command line in the empty home: no endpoint, no key."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        written = capsys.readouterr()
        return Result(int(code), written.out, written.err)

    return run


@pytest.fixture
def llma(bare_llma: Llma, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Llma:
    """Run a command line with the scripted platform and the test's key in the environment."""
    monkeypatch.setenv("LLMARINER_BASE_URL", platform.url)
    monkeypatch.setenv("LLMARINER_API_KEY", API_KEY)
    return bare_llma


@pytest.fixture
def program() -> list[str]:
    """The start of a command line for a process of its own.

    It heeds SIGINT even where these tests run in a shell's background, which ignores it and bequeaths that.
    """
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from llmariner.cli.main import main
sys.exit(main())
"""
    return [sys.executable, "-c", code]
