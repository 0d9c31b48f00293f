"""A platform that a training program talks to over HTTP: it has one plan, and keeps what is reported and uploaded."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["TOKEN", "ScriptedPlatform", "scripted_platform"]

TOKEN = "a-token-of-one-job"


class ScriptedPlatform:
    """`files`: contents by path. `pause_at`: the step after whose report the job is to pause.

    `continues`: whether a process that asks again gets the last state to continue from. `hold`: answer nothing for now.
    `failures`: how many of the next requests end with 503. `status`: that of all answers from now on.
    `graded`: requests for grades; each second answer is right, or those for which `judge` says so. After
    `grades_until_budget` of them the budget is spent, until the job has paused and `continues`. `grader_is_gone`: whether
    none is given after that.
    `kills_at`: numbers of such requests at which the process is killed, whose id one of the `process_files` has.
    """

    def __init__(self) -> None:
        self.url = ""
        self.plan: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.records: list[dict[str, Any]] = []
        self.pause_at: int | None = None
        self.status: int | None = None
        self.failures = 0
        self.continues = False
        self.hold = False
        self.graded: list[dict[str, Any]] = []
        self.judge: Callable[[dict[str, Any]], bool] | None = None
        self.grades_until_budget = 0
        self.grader_is_gone = False
        self.kills_at: list[int] = []
        self.process_files: list[Path] = []
        self.links: dict[str, dict[str, Any]] = {}

    def add_file(self, name: str, content: bytes) -> str:
        """The URL of a file."""
        self.files[f"/files/{name}"] = content
        return f"{self.url}/files/{name}"

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        """The records of a type."""
        return [record for record in self.records if record["type"] == type_]

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, bytes]:
        """The response to a request."""
        while self.hold:
            time.sleep(0.01)
        if path.startswith("/job/"):
            if token != f"Bearer {TOKEN}":
                return 401, b"{}"
        elif token is not None:
            return 400, b"a link needs no token, and must not get one"
        if self.status is not None:
            return self.status, b'{"error": {"code": "attempt_ended"}}'
        if self.failures:
            self.failures -= 1
            return 503, b"{}"
        if path.startswith("/job/grades?"):
            return self._grade(dict(parse_qsl(path.partition("?")[2])), body)
        if method == "GET" and path in self.files:
            return 200, self.files[path]
        if not path.startswith(("/job/", "/links/")):
            return 404, b'{"error": {"code": "not_found", "message": "The file of this link was deleted."}}'
        return 200, json.dumps(self._document(method, path, body)).encode()

    def _grade(self, place: dict[str, str], body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body) | place
        self.graded.append(asked)
        if len(self.graded) in self.kills_at:
            [running] = [each for each in self.process_files if each.exists()]
            os.kill(int(running.read_text()), signal.SIGKILL)
            running.unlink()  # another process may have the id later
        if len(self.graded) > self.grades_until_budget and not (self.continues and self.of_type("paused")):
            if self.grader_is_gone:
                return 400, b'{"error": {"code": "model_not_found", "message": "The judge was deleted."}}'
            return 429, b'{"error": {"code": "insufficient_quota", "message": "The budget is spent."}}'
        right = len(self.graded) % 2 if self.judge is None else self.judge(asked)
        return 200, json.dumps({"reward": float(right), "errors": {}}).encode()

    def _document(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if (method, path) == ("GET", "/job/plan"):
            states = self.of_type("state") if self.continues else []
            return {**self.plan, **({"checkpoint": f"{self.url}/files/{states[-1]['file_id']}"} if states else {})}
        if (method, path) == ("POST", "/job/reports"):
            self.records += json.loads(body)["records"]
            last = max((record.get("step", 0) for record in self.records), default=0)
            return {"action": "pause" if self.pause_at is not None and last >= self.pause_at else "continue"}
        if (method, path) == ("POST", "/job/uploads"):
            link = f"/links/{len(self.links)}"
            self.links[link] = json.loads(body)
            return {"url": self.url + link}
        terms = self.links[path]
        assert (len(body), hashlib.sha256(body).hexdigest()) == (terms["bytes"], terms["sha256"])
        name = f"{terms['kind']}-{path.rsplit('/', 1)[1]}"
        self.add_file(name, body)
        return {"id": name}


@contextmanager
def scripted_platform() -> Iterator[ScriptedPlatform]:
    """A platform at a free port."""
    platform = ScriptedPlatform()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond()

        def do_POST(self) -> None:
            self._respond()

        def do_PUT(self) -> None:
            self._respond()

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = platform.answer(self.command, self.path, self.headers.get("authorization"), body)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    platform.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
