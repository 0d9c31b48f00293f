"""Asking an application and hearing its answer, in this process (ASGI) or over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "InProcess", "Question", "check", "over_http"]

_SECONDS = 60
_TYPES = {"invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"}


@dataclass(frozen=True)
class Question:
    """A request. `body` None: none; bytes: as they are; anything else: as JSON."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""

    def sent(self) -> tuple[dict[str, str], bytes]:
        """Headers and body as they go out."""
        if self.body is None:
            return dict(self.headers), b""
        raw = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return {"content-type": "application/json", "content-length": str(len(raw)), **self.headers}, raw


@dataclass(frozen=True)
class Answer:
    """What came back. Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        found: dict[str, Any] = self.json["error"]
        return found


class InProcess:
    """Calls applications in one event loop that lives as long as this does."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def ask(self, application: Any, question: Question, *, raw_path: bytes | None = None) -> Answer:
        """One request, as a server would put it; `raw_path` where it is not the path itself."""
        return self.runner.run(self._ask(application, question, raw_path))

    async def _ask(self, application: Any, question: Question, raw_path: bytes | None) -> Answer:
        headers, body = question.sent()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": question.method,
            "scheme": "http",
            "path": question.path,
            "raw_path": question.path.encode() if raw_path is None else raw_path,
            "query_string": question.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        channel = _Channel(body)
        async with asyncio.timeout(_SECONDS):
            await application(scope, channel.receive, channel.send)
        return Answer(channel.status, channel.headers, b"".join(channel.parts))


class _Channel:
    """A caller who sends its body whole and stays until the answer's end."""

    def __init__(self, body: bytes) -> None:
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.parts.append(message.get("body", b""))


def over_http(port: int, question: Question) -> Answer:
    """One request on a connection of its own."""
    headers, body = question.sent()
    path = f"{question.path}?{question.query}" if question.query else question.path
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(question.method, path, body=body or None, headers=headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def check(answer: Answer, status: int, code: str | None) -> None:
    """An error as every client reads it."""
    assert (answer.status, answer.error.get("code")) == (status, code), answer.body
    assert set(answer.json) == {"error"}
    assert {"message", "type", "param", "code"} <= set(answer.error)
    assert answer.error["type"] in _TYPES
    assert len(answer.error["message"]) > 20
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
