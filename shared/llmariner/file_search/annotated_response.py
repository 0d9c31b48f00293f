"""The response of an engine with the citations of its text: an ASGI `send` around that of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from llmariner.errors import InvalidRequest
from llmariner.file_search.citations import Citations
from llmariner.gateway.requests.json_structure import check_structure
from llmariner.gateway.responses.messages import Message, Send
from llmariner.gateway.responses.server_sent_events import EventSplitter

__all__ = ["AnnotatedResponse"]

_DATA = b"data: "
_DONE = b"[DONE]"
# Of all choices together; what follows in a longer response gets no citations.
_MAX_TEXT_LENGTH = 512 * 1024
# A larger response, which is no text of a model, passes unchanged.
_MAX_BODY_BYTES = 8 * 1024 * 1024
_MAX_CHOICES = 128
# The index of the passages' words takes up to 70 MiB while citations are found, and the default pool has other work to do.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="citations")
_IDENTITY = ("id", "object", "created", "model")


class AnnotatedResponse:
    """Adds `annotations` to each message, and `file_search_call` to the response. Errors pass unchanged.

    A stream gets them in one chunk of its own, before that with the usage and before [DONE]. `citations` and `call` return
    what holds once the engine has answered.
    """

    def __init__(self, send: Send, citations: Callable[[], Citations], call: Callable[[], Mapping[str, Any]]) -> None:
        self._send = send
        self._citations = citations
        self._call = call
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._events: EventSplitter | None = None
        self._identity: dict[str, Any] = {}
        # In UTF-8: a list of tokens would take ten times the memory.
        self._texts: dict[int, bytearray] = {}
        self._length = 0
        self._is_annotated = False

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            if message["status"] != 200:
                await self._send(message)
            elif _is_stream(message):
                self._events = EventSplitter()
                await self._send(message)
            else:
                self._start = message
        elif self._events is not None:
            body = b"".join([await self._event(each) for each in _complete_events(self._events, message)])
            if body or not message.get("more_body"):
                await self._send({**message, "body": body})
        elif self._start is not None:
            self._body.append(message.get("body", b""))
            if not message.get("more_body"):
                await self._send_whole(self._start)
        else:
            await self._send(message)

    async def _send_whole(self, start: Message) -> None:
        body = b"".join(self._body)
        if len(body) <= _MAX_BODY_BYTES:
            body = await asyncio.get_running_loop().run_in_executor(_THREADS, self._annotated, body)
        headers = [each for each in start["headers"] if each[0] != b"content-length"]
        await self._send({**start, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
        await self._send({"type": "http.response.body", "body": body})

    def _annotated(self, body: bytes) -> bytes:
        """The response with citations; unchanged where an engine sent another form."""
        citations = self._citations()
        try:
            response = _parsed(body)
            for choice in response["choices"]:
                text = self._cut(choice["message"].get("content") or "")
                choice["message"]["annotations"] = citations.annotations(text) if text else []
            response["file_search_call"] = self._call()
            return orjson.dumps(response)
        except (ValueError, KeyError, TypeError, AttributeError):
            return body

    async def _event(self, event: bytes) -> bytes:
        """The bytes that the client gets for an event."""
        if not event.startswith(_DATA) or self._is_annotated:
            return event
        data = event[len(_DATA) :].strip()
        try:
            chunk = {} if data == _DONE else _parsed(data)
            if chunk.get("choices"):
                self._add(chunk)
                return event
        except (ValueError, KeyError, TypeError, AttributeError):
            return event
        if "error" in chunk or not self._identity:
            return event
        self._is_annotated = True
        return await asyncio.get_running_loop().run_in_executor(_THREADS, self._annotations) + event

    def _add(self, chunk: Mapping[str, Any]) -> None:
        if not self._identity:
            self._identity = {name: chunk[name] for name in _IDENTITY}
            if "usage" in chunk:
                self._identity["usage"] = None  # as in every chunk of a stream with usage
        for choice in chunk["choices"]:
            index = choice["index"]
            if type(index) is int and 0 <= index < _MAX_CHOICES:
                text = self._cut(choice["delta"].get("content") or "")
                self._texts.setdefault(index, bytearray()).extend(text.encode())

    def _cut(self, text: str) -> str:
        """The part of the text that may get citations."""
        text = text[: _MAX_TEXT_LENGTH - self._length]
        self._length += len(text)
        return text

    def _annotations(self) -> bytes:
        """The chunk with the annotations of all choices."""
        citations = self._citations()
        choices = [
            {"index": index, "delta": {"annotations": citations.annotations(text.decode())}, "finish_reason": None}
            for index, text in sorted(self._texts.items())
        ]
        return _DATA + orjson.dumps({**self._identity, "choices": choices, "file_search_call": self._call()}) + b"\n\n"


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of an engine. ValueError where it has more values than an event loop may wait for."""
    try:
        check_structure(body)
    except InvalidRequest:
        raise ValueError("too many values") from None
    parsed: dict[str, Any] = orjson.loads(body)
    return parsed


def _complete_events(splitter: EventSplitter, message: Message) -> list[bytes]:
    return [event + b"\n\n" for event in splitter.feed(message.get("body", b"")).split(b"\n\n") if event]


def _is_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])
