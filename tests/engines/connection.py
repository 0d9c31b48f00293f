"""HTTP/1.1 of the scripted engine: parsing, routes, and the caller's disconnect."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools
import orjson
from engines.answers import detokenize, embeddings, list_models, rerank, tokenize
from engines.engine import Engine, RefusedError, Request
from engines.generation import Generation

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}
ANSWERS: dict[tuple[str, str], Callable[[Engine, dict[str, Any]], dict[str, Any]]] = {
    ("GET", "/v1/models"): list_models,
    ("POST", "/v1/embeddings"): embeddings,
    ("POST", "/v1/rerank"): rerank,
    ("POST", "/tokenize"): tokenize,
    ("POST", "/detokenize"): detokenize,
}
USAGE = "/llmariner/usage/"
GENERATES = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions")}


class Connection(asyncio.Protocol):
    """One keep-alive connection: requests are answered in the order they came, one at a time."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parser = httptools.HttpRequestParser(self)
        self.request = Request()
        self.pending: deque[Request] = deque()
        self.generation: Generation | None = None
        self.telling: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.engine.connections += 1
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def connection_lost(self, exc: Exception | None) -> None:
        self.pending.clear()
        if self.generation is not None:
            self.generation.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours: the event loop prints it and closes the connection
        except httptools.HttpParserError:
            self.transport.close()

    def pause_writing(self) -> None:
        if self.generation is not None:
            self.generation.pause()

    def resume_writing(self) -> None:
        if self.generation is not None:
            self.generation.resume()

    def on_message_begin(self) -> None:
        self.request = Request()

    def on_url(self, url: bytes) -> None:
        self.request.path = url.decode().partition("?")[0]

    def on_header(self, name: bytes, value: bytes) -> None:
        self.request.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.request.raw += body

    def on_message_complete(self) -> None:
        self.request.method = self.parser.get_method().decode()
        self.request.keep_alive = self.parser.should_keep_alive()
        self.pending.append(self.request)
        self._next()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def write_chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def done(self, answer: dict[str, Any] | None) -> None:
        """A generation is over; a streamed one has written its answer already."""
        assert self.generation is not None
        request, self.generation = self.generation.request, None
        if answer is not None:
            self._answer(request, 200, orjson.dumps(answer))
        elif not request.keep_alive:
            self.transport.close()
        self._next()

    def _next(self) -> None:
        while self.pending and self.generation is None:
            request = self.pending.popleft()
            try:
                self._handle(request)
            except RefusedError as refusal:
                self._answer(request, refusal.status, orjson.dumps(refusal.body))

    def _handle(self, request: Request) -> None:
        route = (request.method, request.path)
        if not self.engine.ready:
            raise RefusedError(503, "ServiceUnavailableError", "The model is loading.")
        if route in GENERATES:
            self._generate(request)
        elif route in ANSWERS:
            body = orjson.loads(request.raw) if request.raw else {}
            self._answer(request, 200, orjson.dumps(ANSWERS[route](self.engine, body)))
        elif route == ("GET", "/health"):
            self._answer(request, 200, b"")
        elif request.path.startswith(USAGE):
            self.telling = asyncio.ensure_future(self._tell_usage(request))
        elif route == ("GET", "/llmariner/answer") and self.engine.options.first_answer:
            reported = {"answer": self.engine.options.first_answer, "reason": "", "usage": self.engine.first_usage}
            self._answer(request, 200, orjson.dumps(reported))
        elif route == ("GET", "/metrics"):
            self._answer(request, 200, self.engine.metrics(), "text/plain; version=0.0.4")
        else:
            raise RefusedError(404, "NotFoundError", "Not Found")

    def _generate(self, request: Request) -> None:
        try:
            body = orjson.loads(request.raw)
        except orjson.JSONDecodeError as error:
            raise RefusedError(400, "BadRequestError", f"Invalid JSON: {error}") from error
        generation = Generation(self.engine, self, request, body)
        if generation.script.fail_status is not None:
            raise RefusedError(generation.script.fail_status, "ScriptedError", "The script says so.")
        self.generation = generation
        self.engine.submit(generation)

    async def _tell_usage(self, request: Request) -> None:
        """As request_usage.py does inside vLLM: the sender may ask before this engine notices the disconnect."""
        request_id = request.path.removeprefix(USAGE)
        for _ in range(200):
            if request_id in self.engine.over:
                break
            await asyncio.sleep(0.01)
        used = self.engine.over.pop(request_id, None)
        if used is None:
            nothing = {"error": {"message": "no request of this id ended here"}}
            self._answer(request, 404, orjson.dumps(nothing))
        elif used:
            self._answer(request, 200, orjson.dumps(used))
        else:  # as a vLLM without our plugin
            self._answer(request, 404, b'{"detail":"Not Found"}')

    def _answer(self, request: Request, status: int, body: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'Scripted')}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
        if not request.keep_alive:
            self.transport.close()
