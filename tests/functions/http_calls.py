"""HTTP calls of an application, in this process (ASGI) or over a socket."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HttpRequest", "HttpResponse", "InProcessClient", "assert_error", "send_over_http"]

_SECONDS = 60
_ERROR_TYPES = {"invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"}


@dataclass(frozen=True)
class HttpRequest:
    """A request. `body` None: no body; bytes: sent unchanged; any other value: sent as JSON."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""

    def encode(self) -> tuple[dict[str, str], bytes]:
        """The headers and body that are sent."""
        if self.body is None:
            return dict(self.headers), b""
        raw = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return {"content-type": "application/json", "content-length": str(len(raw)), **self.headers}, raw


@dataclass(frozen=True)
class HttpResponse:
    """A response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The body's error object."""
        found: dict[str, Any] = self.json["error"]
        return found


class InProcessClient:
    """Calls ASGI applications in one event loop, `runner`, which the owner closes."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def send(self, application: Any, request: HttpRequest, *, raw_path: bytes | None = None) -> HttpResponse:
        """Send one request; `raw_path` if it differs from the encoded path."""
        return self.runner.run(self._send(application, request, raw_path))

    async def _send(self, application: Any, request: HttpRequest, raw_path: bytes | None) -> HttpResponse:
        headers, body = request.encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode() if raw_path is None else raw_path,
            "query_string": request.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        channel = _Channel(body)
        async with asyncio.timeout(_SECONDS):
            await application(scope, channel.receive, channel.send)
        return HttpResponse(channel.status, channel.headers, b"".join(channel.parts))


class _Channel:
    """A client that sends its body in one message and stays connected until the end of the response."""

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


def send_over_http(port: int, request: HttpRequest) -> HttpResponse:
    """Send one request on a new connection."""
    headers, body = request.encode()
    path = f"{request.path}?{request.query}" if request.query else request.path
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(request.method, path, body=body or None, headers=headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return HttpResponse(response.status, found, response.read())
    finally:
        connection.close()


def assert_error(response: HttpResponse, status: int, code: str | None) -> None:
    """Assert an error response in OpenAI's format, with this status and code."""
    assert (response.status, response.error.get("code")) == (status, code), response.body
    assert set(response.json) == {"error"}
    assert {"message", "type", "param", "code"} <= set(response.error)
    assert response.error["type"] in _ERROR_TYPES
    assert len(response.error["message"]) > 20
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
