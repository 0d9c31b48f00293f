"""A minimal client of the platform: one connection per request, raw bytes, no retry, no pool."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httptools

__all__ = ["Answer", "Caller", "ConnectionLost"]

# Small, so that a stalled client soon stops its sender.
_BUFFER = 32 * 1024


class ConnectionLost(Exception):
    """The connection ended before the response did."""


@dataclass
class Answer:
    """A response in progress; `chunk` returns the received part of its body, without the transfer coding."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    _headed: bool = False
    _complete: bool = False

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headed = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._complete = True

    async def head(self) -> Answer:
        while not self._headed:
            await self._more()
        return self

    async def chunk(self) -> bytes:
        """The next bytes of the body; empty at its end."""
        while not self._parts:
            if self._complete:
                return b""
            await self._more()
        found, self._parts = b"".join(self._parts), []
        return found

    async def read(self) -> Answer:
        """Read to the end: `body` is complete then."""
        await self.head()
        while part := await self.chunk():
            self.body += part
        self.hang_up()
        return self

    async def until(self, mark: bytes, count: int = 1) -> Answer:
        """Read until the body contains `mark` that many times. Raises ConnectionLost if it ends before."""
        await self.head()
        while self.body.count(mark) < count:
            part = await self.chunk()
            if not part:
                raise ConnectionLost(f"the answer ended without {count} x {mark!r}: {self.body[-500:]!r}")
            self.body += part
        return self

    def hang_up(self) -> None:
        self.writer.transport.abort()

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json()["error"]
        return found

    def events(self) -> list[Any]:
        """The data of a stream's events, comments left out, `[DONE]` as the string it is."""
        lines = [line[6:] for line in self.body.split(b"\n\n") if line.startswith(b"data: ")]
        return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]

    def comments(self) -> list[dict[str, Any]]:
        return [json.loads(line[2:]) for line in self.body.split(b"\n\n") if line.startswith(b": ")]

    async def _more(self) -> None:
        try:
            data = await self.reader.read(65536)
        except ConnectionError as error:
            raise ConnectionLost(str(error)) from error
        if not data:
            raise ConnectionLost(f"the connection ended; so far: {self.body[-300:]!r}")
        self._parser.feed_data(data)


class Caller:
    """Calls one address with one key."""

    def __init__(self, port: int, secret: str) -> None:
        self.port = port
        self.secret = secret

    async def open(
        self, path: str, body: object = None, *, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """Send a request; bytes are sent unchanged. The response has not arrived yet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_BUFFER)
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"host": "test", "authorization": f"Bearer {self.secret}", "content-type": "application/json"}
        lines |= {"content-length": str(len(raw)), **(headers or {})}
        verb = method or ("GET" if body is None else "POST")
        head = f"{verb} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(head.encode() + b"\r\n" + raw)
        return Answer(reader, writer)

    async def call(self, path: str, body: object = None, *, headers: dict[str, str] | None = None) -> Answer:
        """The complete response."""
        return await (await self.open(path, body, headers=headers)).read()

    async def chat(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """The complete response of a chat of three words."""
        return await self.call("/v1/chat/completions", chat(model, **fields), headers=headers)

    async def stream(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """A streamed chat, opened."""
        return await self.open("/v1/chat/completions", chat(model, stream=True, **fields), headers=headers)


def chat(model: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat whose prompt has three tokens for the scripted engine."""
    return {"model": model, "messages": [{"role": "user", "content": "say three words"}], **fields}
