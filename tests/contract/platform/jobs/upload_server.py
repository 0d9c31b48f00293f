"""A server that speaks the requests by which pods upload what jobs leave."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Platform"]


class Platform(ThreadingHTTPServer):
    """`answers`: the statuses of the next requests, before 200."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.answers: list[int] = []
        self.asked: list[tuple[str, str, bytes]] = []
        super().__init__((host, 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: Platform

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, self.headers["authorization"] or "", body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        answer: dict[str, Any] = {"error": {"message": "The quota is spent."}}
        if status == 200 and self.command == "POST":
            named = json.loads(body)["files"]
            answer = {
                "uploads": [{"name": each["name"], "url": f"{self.server.url}/up/{n}"} for n, each in enumerate(named)]
            }
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""
