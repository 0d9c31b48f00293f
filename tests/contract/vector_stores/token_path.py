"""A token path with an embedding model: vectors and tokens depend on the words of a text alone."""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llmariner.inference_settings import InferenceSettings
from llmariner.settings import Secret
from llmariner.tenancy.background_work import BackgroundTokens
from llmariner.vector_stores.inference import InferenceClient

__all__ = ["DIMENSION", "TOKENS", "TokenPath", "error", "vector_of"]

TOKENS = BackgroundTokens(Secret("s" * 64))
DIMENSION = 64


def vector_of(text: str, dimension: int = DIMENSION) -> list[float]:
    """Texts with the same words have the same direction."""
    vector = [0.01] * dimension
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % dimension] += 1
    return vector


class TokenPath:
    """A server on a port of its own. `errors`: status, code and Retry-After of the next answers; then it works.

    `chat_answers`: status and body of answers to chats; the last one is repeated.
    `before`: called with the body of each request for embeddings or a chat. `max_words`: of an input, None: any number.
    """

    def __init__(self) -> None:
        self.dimension = DIMENSION
        self.max_model_len = 8192
        self.max_words: int | None = None
        self.refuses_to_count = False
        self.errors: list[tuple[int, str | None, str]] = []
        self.before: Callable[[Any], None] = lambda _body: None
        self.raw: bytes | None = None
        self.rerank_answer: tuple[int, bytes] | None = None
        self.chat_answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        path = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, answer = path.answer(self.path, body)
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Write nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.client = InferenceClient(InferenceSettings(f"http://127.0.0.1:{self.server.server_port}"), TOKENS)

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a request."""
        if path == "/v1/rerank":
            status, ranks = self.rerank_answer or (200, ranked(body))
            return status, {}, ranks
        if path == "/v1/chat/completions" and self.chat_answers:
            self.before(body)
            status, message = self.chat_answers.pop(0) if len(self.chat_answers) > 1 else self.chat_answers[0]
            return status, {}, message
        if path == "/v1/embeddings":
            self.before(body)
        if self.errors and path == "/v1/embeddings":
            status, code, retry_after = self.errors.pop(0)
            return status, {"retry-after": retry_after} if retry_after else {}, error(code)
        if self.refuses_to_count and path == "/v1/tokenize":
            return 429, {"retry-after": "60"}, error("insufficient_quota")
        if self.raw is not None:
            return 200, {}, self.raw
        if path == "/v1/tokenize":
            tokens = [zlib.crc32(word.encode()) for word in body["prompt"].split()]
            said = {"count": len(tokens), "max_model_len": self.max_model_len, "tokens": tokens}
            return 200, {}, json.dumps(said).encode()
        if self.max_words is not None and any(len(text.split()) > self.max_words for text in body["input"]):
            return 400, {}, error("context_length_exceeded")
        rows = []
        for index, text in enumerate(body["input"]):
            packed = struct.pack(f"<{self.dimension}f", *vector_of(text, self.dimension))
            rows.append({"index": index, "embedding": base64.b64encode(packed).decode()})
        return 200, {}, json.dumps({"data": rows}).encode()

    def embedded(self) -> list[str]:
        """Every text that was embedded, in order."""
        return [text for path, _, body in self.requests if path == "/v1/embeddings" for text in body["input"]]


def ranked(body: Any) -> bytes:
    """Texts by how many words of the query they have; those that say "dull" are negative, as cosines may be."""
    query = set(body["query"].lower().split())
    rows = [
        {"index": n, "relevance_score": -0.5 if "dull" in text else len(query & set(text.lower().split())) / len(query)}
        for n, text in enumerate(body["documents"])
    ]
    return json.dumps({"results": sorted(rows, key=lambda row: -row["relevance_score"])}).encode()


def error(code: str | None) -> bytes:
    """OpenAI's error."""
    return json.dumps({"error": {"message": "No.", "type": "x", "param": None, "code": code}}).encode()
