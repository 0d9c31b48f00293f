"""Fixtures of the command line tests: a scripted platform, and a function that runs `llma` against it.

The platform is an HTTP server in this process that sends scripted responses and records requests; `llma` runs in this
process too, through the `main` of the installed program.
"""

from __future__ import annotations

import json
import os
import subprocess
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
"""The API key of the tests; it must appear in no output that does not show it explicitly."""


@dataclass(frozen=True)
class Response:
    """A scripted response. `chunks` makes it a stream of bytes, written one by one; `drop` closes the connection."""

    document: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    chunks: Iterable[bytes] | None = None
    drop: bool = False


@dataclass(frozen=True)
class Request:
    """A recorded request. `path` is percent-encoded as sent; `body` is the parsed JSON, of other types the bytes."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any


class FakePlatform:
    """A scripted API. A route without a script answers 404, unknown_url."""

    def __init__(self) -> None:
        self._responses: dict[str, list[Response]] = {}
        self.requests: list[Request] = []
        self.disconnected = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"platform": self}))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def respond(self, route: str, *documents: dict[str, Any]) -> None:
        """Script a route (`GET /models`): the documents in order, then the last one repeatedly."""
        self._responses[route] = [Response(document) for document in documents]

    def respond_next(self, route: str, *documents: dict[str, Any]) -> None:
        """Append documents to the script of a route."""
        self._responses[route] += [Response(document) for document in documents]

    def respond_with(self, route: str, **response: Any) -> None:
        """Script a route with one response by the fields of `Response`."""
        self._responses[route] = [Response(**response)]

    def script(self, route: str, *responses: Response) -> None:
        """Script a route with responses in order, then the last one repeatedly."""
        self._responses[route] = list(responses)

    def respond_error(
        self, route: str, status: int, *, message: str = "No.", headers: Any = None, **error: Any
    ) -> None:
        """Script an error in OpenAI's envelope, with a request id; `error` holds additional fields."""
        self._responses[route] = [_error_response(status, {"message": message, **error}, headers or {})]

    def respond_next_error(self, route: str, status: int, *, message: str = "No.", **error: Any) -> None:
        """Append an error to the script of a route."""
        self._responses[route].append(_error_response(status, {"message": message, **error}, {}))

    def next_response(self, route: str) -> Response:
        responses = self._responses.get(route)
        if responses is None:
            return _error_response(404, {"code": "unknown_url", "message": f"Unknown request URL: {route}."}, {})
        return responses.pop(0) if len(responses) > 1 else responses[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _error_response(status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    envelope = {"error": {"type": "invalid_request_error", "param": None, "code": None, **error}}
    return Response(envelope, status=status, headers={"x-request-id": "req_42", **headers})


class _Handler(BaseHTTPRequestHandler):
    platform: FakePlatform
    protocol_version = "HTTP/1.1"
    timeout = 20

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body: Any = self.rfile.read(length) if length else None
        if self.headers.get("content-type") == "application/json":
            body = json.loads(body)
        path = parts.path.removeprefix("/v1")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.platform.requests.append(Request(self.command, path, query, headers, body))
        self._respond(self.platform.next_response(f"{self.command} {path}"))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _respond(self, response: Response) -> None:
        if response.drop:
            self.close_connection = True
        elif response.chunks is not None:
            self._stream(response)
        else:
            raw = json.dumps(response.document).encode() if response.raw is None else response.raw
            self._head(response, {"content-type": "application/json", "content-length": str(len(raw))})
            self.wfile.write(raw)

    def _stream(self, response: Response) -> None:
        self._head(response, {"content-type": "text/event-stream", "connection": "close"})
        self.close_connection = True
        try:
            for chunk in response.chunks or ():
                self.wfile.write(chunk)
        except OSError:
            self.platform.disconnected.set()

    def _head(self, response: Response, defaults: Mapping[str, str]) -> None:
        self.send_response(response.status)
        for name, value in {**defaults, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `requests` instead."""


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Llma = Callable[..., Result]
Complete = Callable[[str], list[str]]


@pytest.fixture
def api_key() -> str:
    return API_KEY


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    server = FakePlatform()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's empty home, and an environment that says nothing of any platform."""
    names = ("BASE_URL", "API_KEY", "PORT", "HOST", "CACHE")
    for name in (
        *(f"LLMARINER_{name}" for name in names),
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "NO_COLOR",
        "FORCE_COLOR",
        "COLUMNS",
    ):
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
def llma(bare_llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> Llma:
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


@pytest.fixture
def complete(program: list[str], platform: FakePlatform, home: Path) -> Complete:
    """What bash offers for the last of some words, with the scripted platform."""

    def run(words: str) -> list[str]:
        environment = {
            **os.environ,
            "_LLMA_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "LLMARINER_BASE_URL": platform.url,
            "LLMARINER_API_KEY": "sk-test",
        }
        found = subprocess.run(program, check=True, env=environment, capture_output=True, text=True, timeout=60)
        assert found.stderr == ""
        return [line.partition(",")[2] for line in found.stdout.splitlines()]

    return run
