"""What all connections of the scripted engine share: the batch, the queue before it, the counters."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Options:
    """What the command line says; times in seconds."""

    host: str
    port: int
    uds: str | None
    models: tuple[str, ...]
    ready_after: float
    token_interval: float
    tokens: int
    max_running: int
    fail_load: bool
    crash_after_tokens: int
    template_tokens: int = 0
    first_answer: str = ""


@dataclass
class Request:
    """One HTTP request as it came."""

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""
    keep_alive: bool = True


class RefusedError(Exception):
    """A request that is answered with an error in vLLM's envelope."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class QueuedRequest(Protocol):
    """A request that waits for room in the batch."""

    def start(self) -> None: ...


class Vocabulary:
    """Words to token ids and back, learned as they come: enough for /detokenize to undo /tokenize."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if self._ids.setdefault(word, len(self._words)) == len(self._words):
                self._words.append(word)
        return [self._ids[word] for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(self._words[i] for i in ids)


class Engine:
    """What all connections share: the batch, the queue before it, the counters, the clock."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ready = False
        self.created = int(time.time())
        self.vocabulary = Vocabulary()
        self.running: set[QueuedRequest] = set()
        self.waiting: deque[QueuedRequest] = deque()
        self.first_usage = {"prompt_tokens": 33, "completion_tokens": 8} if options.first_answer else {}
        self.prompt_tokens = self.first_usage.get("prompt_tokens", 0)
        self.generation_tokens = self.first_usage.get("completion_tokens", 0)
        self.connections = 0
        self.over: dict[str, dict[str, int]] = {}

    def note(self, request_id: str, used: dict[str, int]) -> None:
        """Keep the usage of a finished request for later queries."""
        self.over[request_id] = used
        if len(self.over) > 4096:
            del self.over[next(iter(self.over))]

    def submit(self, generation: QueuedRequest) -> None:
        self.waiting.append(generation)
        self._fill()

    def leave(self, generation: QueuedRequest) -> None:
        """A generation is over or aborted: its place goes to the first in the queue."""
        if generation in self.running:
            self.running.remove(generation)
            self._fill()
        elif generation in self.waiting:
            self.waiting.remove(generation)

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.options.max_running:
            generation = self.waiting.popleft()
            self.running.add(generation)
            generation.start()

    def count_token(self, made: int, crash_after: int | None) -> None:
        """One more token; dies as the kernel's OOM killer would end the process when the script says so."""
        self.generation_tokens += 1
        total = self.options.crash_after_tokens
        if (total and self.generation_tokens >= total) or (crash_after is not None and made >= crash_after):
            os.kill(os.getpid(), signal.SIGKILL)

    def resolve(self, body: dict[str, Any]) -> str:
        """The served name a body asks for; without --model every name is served."""
        models = self.options.models
        name = body.get("model") or (models[0] if models else "scripted")
        if models and name not in models:
            raise RefusedError(404, "NotFoundError", f"The model `{name}` does not exist.", "model")
        return str(name)

    def metrics(self) -> bytes:
        labels = f'{{engine="0",model_name="{(self.options.models or ("scripted",))[0]}"}}'
        rows = (
            ("vllm:num_requests_running", "gauge", len(self.running)),
            ("vllm:num_requests_waiting", "gauge", len(self.waiting)),
            ("vllm:prompt_tokens_total", "counter", self.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", self.generation_tokens),
            # Not of vLLM: whether a proxy keeps its connections alive.
            ("scripted:connections_total", "counter", self.connections),
        )
        lines = [f"# TYPE {name} {kind}\n{name}{labels} {value:.1f}\n" for name, kind, value in rows]
        return "".join(lines).encode()
