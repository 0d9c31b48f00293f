"""One request in the scripted engine, from the queue to its last token, in the bytes that vLLM 0.32 writes.

Where vLLM's serializer writes a field it set to null, so does this: `usage` ends a token's chunk, but not the
first chunk (prompt fields follow it) nor the last (the fingerprint does).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from engines.engine import Engine, RefusedError, Request

FINGERPRINT = "vllm-0.32.0-scripted"
WORDS = ("the", "river", "bends", "where", "old", "stones", "keep", "its", "name", "and", "wait")
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
NUMBERS = itertools.count(1)


class Caller(Protocol):
    """The connection a generation answers to."""

    def write(self, data: bytes) -> None: ...
    def write_chunk(self, data: bytes) -> None: ...
    def done(self, answer: dict[str, Any] | None) -> None: ...


@dataclass(frozen=True)
class Script:
    """What one request dictates through its body field `x_script`; None leaves the command line's word."""

    fail_status: int | None = None
    crash_after_tokens: int | None = None
    delay_ms: float = 0
    token_interval_ms: float | None = None
    huge_chunk_bytes: int = 0
    usage: str | None = None
    """The usage object as it is to be written, whatever that is; empty: none, and none is reported after a disconnect."""
    text: str | None = None
    """What each answer says, a word per token; its maximum of tokens may cut it off."""


def read_script(body: dict[str, Any]) -> Script:
    try:
        return Script(**body.get("x_script", {}))
    except TypeError as error:
        raise RefusedError(400, "BadRequestError", str(error), "x_script") from error


def message_text(messages: list[dict[str, Any]]) -> str:
    """The text of a conversation: content strings and text parts, one space between."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content") or ""
        texts += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return " ".join(texts)


def prompt_length(body: dict[str, Any], template: int) -> int:
    """Prompt tokens: one per word; a prompt of token ids counts as it is. `template`: of a chat and of each function."""
    if "messages" in body:
        return len(message_text(body["messages"]).split()) + template * (1 + len(body.get("tools") or ()))
    prompt = body.get("prompt", "")
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    return sum(len(part.split() if isinstance(part, str) else part) for part in prompt)


def prompt_count(body: dict[str, Any]) -> int:
    """Of a completion: a list of token ids is one prompt."""
    prompt = body.get("prompt", "")
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


class Generation:
    """One request in the engine, from the queue to its last token."""

    def __init__(self, engine: Engine, caller: Caller, request: Request, body: dict[str, Any]) -> None:
        self.engine = engine
        self.caller = caller
        self.request = request
        self.chat = request.path == "/v1/chat/completions"
        self.script = read_script(body)
        options = body.get("stream_options") or {}
        self.stream = bool(body.get("stream"))
        if options and not self.stream:
            message = "Stream options can only be defined when `stream=True`."
            raise RefusedError(400, "BadRequestError", message, "stream_options")
        self.include_usage = bool(options.get("include_usage"))
        self.continuous = self.include_usage and bool(options.get("continuous_usage_stats"))
        self.answers = int(body.get("n") or 1) * (1 if self.chat else prompt_count(body))
        self.wanted = self._maximum(body) * self.answers
        self.prompt = prompt_length(body, engine.options.template_tokens)
        interval = self.script.token_interval_ms
        self.interval = engine.options.token_interval if interval is None else interval / 1000
        self.made = 0
        self.paused = False
        self.timer: asyncio.Handle | None = None
        name = request.headers.get("x-request-id") or f"scripted{next(NUMBERS)}"
        prefix, kind = ("chatcmpl", "chat.completion") if self.chat else ("cmpl", "text_completion")
        kind += ".chunk" if self.chat and self.stream else ""
        served = engine.resolve(body)
        self.identity = {
            "id": f"{prefix}-{name}",
            "object": kind,
            "created": int(time.time()),
            "model": served,
        }
        self.head = b"data: " + orjson.dumps(self.identity)[:-1] + b',"choices":['

    def _maximum(self, body: dict[str, Any]) -> int:
        """The length of each answer, by the fields that vLLM reads on that route."""
        found = body.get("max_completion_tokens") if self.chat else None
        found = body.get("max_tokens") if found is None else found
        if self.script.text is not None:
            words = len(self.script.text.split(" "))
            return min(words, int(found or words))
        return max(1, int(self.engine.options.tokens if found is None else found))

    def start(self) -> None:
        """Called when the batch has room: the prompt is read, then tokens come one interval apart."""
        self.engine.prompt_tokens += self.prompt
        if self.stream:
            self.caller.write(CHUNKED)
        self._schedule(self.script.delay_ms / 1000 + self.interval)

    def abort(self) -> None:
        """The caller is gone."""
        if self.timer is not None:
            self.timer.cancel()
        self._over()

    def _over(self) -> None:
        """The usage is kept for later queries, as our plugin in vLLM does."""
        used = {"prompt_tokens": self.prompt, "completion_tokens": self.made}
        if self.script.usage == "":
            used = {}
        self.engine.note(self.request.headers.get("x-request-id", ""), used)
        self.engine.leave(self)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """A reader that had fallen behind reads again; the timer is dead since then."""
        self.paused = False
        if self.timer is None:
            self._schedule(0)

    def _schedule(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(delay, self._step) if delay > 0 else loop.call_soon(self._step)

    def _step(self) -> None:
        self.timer = None
        self._token()
        while self.made < self.wanted and not self.stream and self.interval <= 0:
            self._token()
        if self.made >= self.wanted:
            self._finish()
        elif not self.paused:
            self._schedule(self.interval)

    def _token(self) -> None:
        """The next token: the answers of one request take turns."""
        if self.stream:
            if self.made < self.answers and self.chat:
                self._write_role()
            self._write_token()
        self.made += 1
        self.engine.count_token(self.made, self.script.crash_after_tokens)

    def _text(self, index: int) -> str:
        if index == 0 and self.script.huge_chunk_bytes:
            return "x" * self.script.huge_chunk_bytes
        if self.script.text is not None:
            return ("" if index == 0 else " ") + self.script.text.split(" ")[index]
        return " " + WORDS[index % len(WORDS)]

    def _usage(self, completed: int, *, final: bool = False) -> bytes:
        if self.script.usage is not None:
            return b',"usage":' + self.script.usage.encode() if self.script.usage else b""
        counts = f'"prompt_tokens":{self.prompt},"total_tokens":{self.prompt + completed}'
        counts += f',"completion_tokens":{completed}'
        details = ',"completion_tokens_details":null' if self.chat and not final else ""
        return f',"usage":{{{counts}{details}}}'.encode()

    def _write_role(self) -> None:
        choice = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        choice %= self.made
        usage = self._usage(0) if self.continuous else b""
        self._event(choice + usage + b',"prompt_token_ids":null,"prompt_text":null}')

    def _write_token(self) -> None:
        turn, index = divmod(self.made, self.answers)
        last = (turn + 1) * self.answers == self.wanted
        text = orjson.dumps(self._text(turn))
        reason = b'"length"' if last else b"null"
        if self.chat:
            stop = b',"stop_reason":null' if last else b""
            choice = b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":%b%b,"token_ids":null}]'
            piece = choice % (index, text, reason, stop)
        else:
            choice = (
                b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b,"stop_reason":null,'
                b'"prompt_token_ids":null,"token_ids":null}]'
            )
            piece = choice % (index, text, reason)
        if self.continuous:
            # As vLLM's: of this answer alone.
            piece += self._usage(turn + 1)
        if last and not self.include_usage:
            piece += b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        self._event(piece + b"}")

    def _event(self, tail: bytes) -> None:
        self.caller.write_chunk(self.head + tail + b"\n\n")

    def _finish(self) -> None:
        if self.stream:
            if self.include_usage:
                usage = self._usage(self.made, final=True)
                self._event(b"]" + usage + b',"system_fingerprint":"%b"}' % FINGERPRINT.encode())
            self.caller.write_chunk(b"data: [DONE]\n\n")
            self.caller.write(b"0\r\n\r\n")
        self._over()
        self.caller.done(None if self.stream else self._answer())

    def _answer(self) -> dict[str, Any]:
        text = "".join(self._text(i) for i in range(self.made // self.answers))
        ending = {"logprobs": None, "finish_reason": "length", "stop_reason": None, "token_ids": None}
        choice: dict[str, Any] = {"text": text}
        if self.chat:
            nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
            choice = {"message": {"role": "assistant", "content": text, **nothing}}
        usage: Any = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.made,
            "completion_tokens": self.made,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        if self.script.usage is not None:
            usage = orjson.Fragment(self.script.usage or "null")
        return {
            **self.identity,
            "choices": [{"index": index, **choice, **ending} for index in range(self.answers)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage,
            "kv_transfer_params": None,
            "x_received": self.request.raw.decode(),
            "x_received_headers": self.request.headers,
        }
