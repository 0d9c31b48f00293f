"""Answers as ASGI messages: heads, whole bodies, errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from llmariner.errors import EngineFailed, InvalidRequest, ModelNotFound, PlatformError, Unavailable
from llmariner.gateway.request_ids import new_request_id

__all__ = [
    "Message",
    "Receive",
    "Scope",
    "Send",
    "answer_headers",
    "engine_error",
    "send_error",
    "send_head",
    "send_json",
]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]
_STREAM = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def answer_headers() -> RawHeaders:
    """The headers of an answer that no further work went into."""
    return [
        (b"x-request-id", new_request_id().encode()),
        (b"openai-version", b"2020-10-01"),
        (b"openai-processing-ms", b"0"),
    ]


async def send_head(send: Send, status: int, content_type: bytes, headers: RawHeaders, length: int | None) -> None:
    """The head of an answer; `length` None for a stream."""
    if length is not None:
        framing = [(b"content-length", b"%d" % length), (b"content-type", content_type)]
    else:
        framing = [(b"content-type", content_type), *_STREAM]
    await send({"type": "http.response.start", "status": status, "headers": framing + headers})


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    """A whole JSON answer."""
    await send_head(send, status, b"application/json", headers, len(body))
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: PlatformError, headers: RawHeaders) -> None:
    """An error before the first byte of an answer."""
    own = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    taken = {name for name, _ in own}
    kept = [(name, value) for name, value in headers if name not in taken]
    await send_json(send, error.status, json.dumps(error.body()).encode(), own + kept)


def engine_error(status: int, body: bytes, model: str) -> PlatformError:
    """What an engine refused, as one of our errors: 4xx are the caller's to mend, 5xx are not."""
    message, param = _words(body)
    if status == 404:
        return ModelNotFound(model)
    if 400 <= status < 500 and status != 429:
        code = "context_length_exceeded" if "max_model_len" in message or "context length" in message else None
        return InvalidRequest(message or "The engine refused the request.", param=param, code=code)
    if status in (429, 503):
        return Unavailable(message or "The engine is overloaded; try again shortly.", headers={"retry-after": "1"})
    return EngineFailed("The engine failed on this request. Try again; if it fails again, see `llma logs`.")


def _words(body: bytes) -> tuple[str, str | None]:
    """The message and field of an engine's error, whichever of the known shapes it has."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:500].decode(errors="replace"), None
    holder = value.get("error", value) if isinstance(value, dict) else {}
    if not isinstance(holder, dict):
        return str(holder)[:500], None
    param = holder.get("param")
    message = holder.get("message") or holder.get("detail") or ""
    return str(message)[:2000], param if isinstance(param, str) else None
