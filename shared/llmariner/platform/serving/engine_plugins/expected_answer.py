"""Engine plugin: checks by one answer known beforehand that this processor computes correctly.

A weights folder may contain a file `expected_answer.json`: a question with the start of its answer,

    {"question": "What is …?", "max_tokens": 24, "starts_with": "The …"}

or, for embeddings, two texts of like meaning and one of another, with bounds of their cosine similarities:

    {"like": ["…", "…"], "unlike": "…", "like_above": 0.5, "unlike_below": 0.3}

The question is sent once, as soon as the engine serves. `GET /llmariner/answer` returns the result: `answer` (pending,
as_expected, differs, not_asked), `reason`, and the `usage`, which the engine's counters include but no ledger. A mismatch
is logged, and the engine still serves. The file is untrusted, as the weights are: it can only choose a short text to
compute. Loaded by `--middleware expected_answer.ExpectedAnswer`; standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "expected_answer.json"
PATH = "/llmariner/answer"

_MAX_FILE_BYTES = 16384
_MAX_TEXT_CHARACTERS = 1000
_MAX_TOKENS = 64
_CHECK_TIMEOUT_SECONDS = 300.0
# /health waits this long for the check, so that the first request of a small model does not compete with it.
_HEALTH_DELAY_SECONDS = 1.0
_USAGE_FIELDS = ("prompt_tokens", "completion_tokens")
_HELP = "docs/install-cluster.md, 'Answers of engines on CPUs'"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class ExpectedText:
    """A question to a generating model, with the start of the expected answer."""

    question: str
    max_tokens: int
    starts_with: str

    path = "/v1/chat/completions"

    def body(self) -> dict[str, Any]:
        """The request body without `model`."""
        messages = [{"role": "user", "content": self.question}]
        return {"messages": messages, "temperature": 0, "max_tokens": self.max_tokens}

    def mismatch(self, answer: dict[str, Any]) -> str | None:
        """How a response differs, or None. Raises LookupError or TypeError for another object."""
        text = str(answer["choices"][0]["message"]["content"])
        if text.startswith(self.starts_with):
            return None
        return f"answers {self.question!r} with {text[:200]!r} where {self.starts_with!r} was expected"


@dataclass(frozen=True)
class ExpectedVectors:
    """Texts for an embedding model: two of similar meaning, one of another, with bounds of their cosine similarity."""

    like: tuple[str, str]
    unlike: str
    like_above: float
    unlike_below: float

    path = "/v1/embeddings"

    def body(self) -> dict[str, Any]:
        """The request body without `model`."""
        return {"input": [*self.like, self.unlike]}

    def mismatch(self, answer: dict[str, Any]) -> str | None:
        """How a response differs, or None. Raises LookupError, TypeError or ValueError for another object."""
        one, other, third = (row["embedding"] for row in answer["data"])
        like, unlike = _cosine_similarity(one, other), _cosine_similarity(one, third)
        if like > self.like_above and unlike < self.unlike_below:
            return None
        line = f"finds sentences of like meaning {like:.2f} alike, of unlike meaning {unlike:.2f}"
        return f"{line}, where above {self.like_above} and below {self.unlike_below} was expected"


def parse(raw: bytes) -> ExpectedText | ExpectedVectors:
    """Parse a file. Raises ValueError if its form is wrong or it asks for more than a short answer."""
    try:
        value = json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if "question" in value:
        max_tokens = value.get("max_tokens")
        if type(max_tokens) is not int or not 0 < max_tokens <= _MAX_TOKENS:
            raise ValueError(f"max_tokens must be a number from 1 to {_MAX_TOKENS}")
        return ExpectedText(_text(value, "question"), max_tokens, _text(value, "starts_with"))
    like = value.get("like")
    if not isinstance(like, list) or len(like) != 2:
        raise ValueError("it has neither a question nor two texts of like meaning")
    texts = {"like 1": like[0], "like 2": like[1]}
    bounds = _similarity_bound(value, "like_above"), _similarity_bound(value, "unlike_below")
    return ExpectedVectors((_text(texts, "like 1"), _text(texts, "like 2")), _text(value, "unlike"), *bounds)


class ExpectedAnswer:
    """ASGI middleware around vLLM's application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._checked = asyncio.Event()
        self._check_task: asyncio.Task[None] | None = None
        self._health_delay_until = 0.0
        self._usage = dict.fromkeys(_USAGE_FIELDS, 0)
        self._answer, self._reason = "not_asked", "the server has not started"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the result route; pass everything else on, /health after the check or `_HEALTH_DELAY_SECONDS`."""
        if scope["type"] == "lifespan":
            await self._handle_lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PATH:
            await self._send_result(send)
        else:
            if scope["type"] == "http" and scope["path"] == "/health" and self._check_task is not None:
                await self._delay_health()
            await self._app(scope, receive, send)

    async def _handle_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_start_check(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._answer, self._reason = "pending", ""
                self._health_delay_until = asyncio.get_running_loop().time() + _HEALTH_DELAY_SECONDS
                self._check_task = asyncio.create_task(self._check(scope["app"]))
            await send(message)

        try:
            await self._app(scope, receive, send_and_start_check)
        finally:
            if self._check_task is not None:
                self._check_task.cancel()

    async def _delay_health(self) -> None:
        left = self._health_delay_until - asyncio.get_running_loop().time()
        if not self._checked.is_set() and left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._checked.wait(), left)

    async def _check(self, app: Any) -> None:
        """Send the question and store the result. No error stops the engine."""
        try:
            self._answer, self._reason = await asyncio.wait_for(self._compare(app), _CHECK_TIMEOUT_SECONDS)
        except TimeoutError:
            self._answer, self._reason = "not_asked", f"no answer within {_CHECK_TIMEOUT_SECONDS:.0f} s"
        except Exception as error:  # other versions of vLLM may fail or answer differently
            self._answer, self._reason = "not_asked", repr(error)
        finally:
            self._checked.set()
        line = ": ".join(filter(None, ("expected answer", self._answer.replace("_", " "), self._reason)))
        print(line + (f"; see {_HELP}" if self._answer == "differs" else ""), file=sys.stderr, flush=True)

    async def _compare(self, app: Any) -> tuple[str, str]:
        raw = await asyncio.to_thread(_read, app.state.args.model)
        if raw is None:
            return "not_asked", f"there is no {FILE} beside the weights"
        try:
            expected = parse(raw)
        except ValueError as error:
            return "not_asked", f"{FILE}: {error}"
        # A separate cache: callers' prompts must not hit it, which would change what they are charged.
        body = {**expected.body(), "cache_salt": secrets.token_hex(16)}
        status, answer = await _request(self._app, app, expected.path, json.dumps(body).encode())
        if status != 200:
            return "not_asked", f"the engine refuses the question with status {status}"
        value = json.loads(answer)
        used = value.get("usage") or {}
        self._usage = {name: used.get(name) or 0 for name in _USAGE_FIELDS}
        mismatch = expected.mismatch(value)
        return ("as_expected", "") if mismatch is None else ("differs", f"this processor ({_cpu_name()}) {mismatch}")

    async def _send_result(self, send: Send) -> None:
        value = json.dumps({"answer": self._answer, "reason": self._reason, "usage": self._usage}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": value})


async def _request(inner: App, app: Any, path: str, body: bytes) -> tuple[int, bytes]:
    """Send one request to an ASGI application in this process; returns status and body."""
    status, parts = 0, []
    messages_in = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if messages_in:
            return messages_in.pop()
        await asyncio.Event().wait()  # this client never disconnects
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"x-request-id", b"expected-answer"))
    scope: Scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST"},
        **{"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers},
        **{"client": None, "server": None, "state": {}, "app": app},
    }
    await inner(scope, receive, send)
    return status, b"".join(parts)


def _read(folder: str) -> bytes | None:
    """The content of the file beside the weights; None if there is no such regular file."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    return raw if len(raw) <= _MAX_FILE_BYTES else b"too long"


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT_CHARACTERS:
        raise ValueError(f"{name} must be a text of at most {_MAX_TEXT_CHARACTERS} characters")
    return text


def _similarity_bound(value: dict[str, Any], name: str) -> float:
    bound = value.get(name)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not -1 <= bound <= 1:
        raise ValueError(f"{name} must be a number from -1 to 1")
    return float(bound)


def _cosine_similarity(one: list[float], other: list[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else math.nan


def _cpu_name() -> str:
    """The processor's model name from /proc/cpuinfo."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine
