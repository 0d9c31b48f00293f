"""A standby engine: imports vLLM ahead of time, and starts serving a model on request.

Run by the engine image's interpreter, standard library only. It serves on CONTROL_PORT (8090):

    GET  /live    200 while this process lives
    GET  /ready   200 once vLLM is imported while no engine runs: a model can be started
    GET  /status  {"warm", "reason", "engine": null or {"model", "pid", "answer", "usage"},
                  "last": null or {"model", "status", "log"}}
    POST /start   {"model": id, "argv": ["serve", folder, …]}: 202; the engine answers /health when the model is loaded
    POST /stop    {"grace": seconds}: 202; the engine stops, then the next model can be started

`answer` and `usage` are the result of the engine plugin expected_answer.py at its start: as_expected, differs, pending or
not_asked, and the tokens of the question.

`argv` follows `vllm`; it must contain the port. One engine at a time: 409 while one runs. Both POSTs require
`Authorization: Bearer` with STANDBY_TOKEN, without which this program does not start.

An engine that exits without a stop request ends this program, so that Kubernetes sees a failed container with its last log
lines. SIGTERM stops the engine first, with STANDBY_GRACE seconds (70) for active streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_LAUNCHER = Path(__file__).with_name("launcher.py")
_MAX_BODY_BYTES = 65536
_MAX_GRACE_SECONDS = 86_400
_CONNECTION_TIMEOUT_SECONDS = 10.0
_LOG_LINES = 40
_ANSWER_TIMEOUT_SECONDS = 2.0
_MAX_ANSWER_BYTES = 65536
_PR_SET_DUMPABLE = 4


class RequestRejected(Exception):
    """A rejected request, with HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Standby:
    """The launcher process and the state of its engine. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._fifo = folder / f"engine-{os.getpid()}.log"
        self._lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._lock = threading.Lock()
        self._ready: dict[str, Any] | None = None
        self._engine: dict[str, Any] | None = None
        self._port: int | None = None
        self._last: dict[str, Any] | None = None
        self._stopping = False
        self._shutting_down = False
        self.failed = False
        os.mkfifo(self._fifo, 0o600)
        threading.Thread(target=self._copy_log, daemon=True).start()
        self._launcher = subprocess.Popen(
            [sys.executable, str(_LAUNCHER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    @property
    def available(self) -> bool:
        """Whether a model can be started now."""
        return self._ready is not None and self._engine is None

    def status(self) -> dict[str, Any]:
        """The body of `GET /status`."""
        with self._lock:
            ready = self._ready or {"warm": False, "reason": "still importing"}
            engine, port, last = self._engine, self._port, self._last
        if engine is not None:
            engine = {**engine, **_fetch_first_answer(port)}
        return {"warm": ready["warm"], "reason": ready["reason"], "engine": engine, "last": last}

    def start(self, body: dict[str, Any]) -> None:
        """Fork an engine. Raises RequestRejected: 400 unless argv is `serve …`, 409 while one runs, 503 until warm."""
        model, argv = body.get("model"), body.get("argv")
        if not isinstance(model, str) or not isinstance(argv, list) or not all(isinstance(each, str) for each in argv):
            raise RequestRejected(400, 'the body must be {"model": "id", "argv": ["serve", "folder", …]}')
        if argv[:1] != ["serve"]:
            raise RequestRejected(400, f"argv must begin with serve, not {argv[:1]}")
        with self._lock:
            if self._ready is None:
                raise RequestRejected(503, "vLLM is still being imported; GET /ready says when it is")
            if self._engine is not None:
                raise RequestRejected(409, f"the model {self._engine['model']} is here; POST /stop first")
            self._engine = {"model": model, "pid": None}
            self._port = _port(argv)
            self._stopping = False
            self._lines.clear()
            self._send({"op": "start", "model": model, "argv": argv, "environment": {}, "log": str(self._fifo)})

    def stop(self, body: dict[str, Any]) -> None:
        """Stop the engine. Raises RequestRejected: 400 for a bad grace, 409 if none runs."""
        grace = body.get("grace", 60)
        # Python's JSON parser accepts Infinity and NaN.
        if not isinstance(grace, int | float) or not 0 <= grace <= _MAX_GRACE_SECONDS:
            raise RequestRejected(400, f"grace must be a number of seconds, at most {_MAX_GRACE_SECONDS}")
        with self._lock:
            if self._engine is None or self._engine["pid"] is None:
                raise RequestRejected(409, "no engine runs")
            self._stopping = True
            self._send({"op": "stop", "pid": self._engine["pid"], "grace": grace})

    def run(self) -> int:
        """Handle the launcher's events until it exits; returns its exit status."""
        assert self._launcher.stdout is not None
        for line in self._launcher.stdout:
            self._handle_event(json.loads(line))
        return self._launcher.wait()

    def shut_down(self, grace: float) -> None:
        """Stop the engine with `grace` seconds, then the launcher."""
        with self._lock:
            self._shutting_down = True
        try:
            self.stop({"grace": grace})
        except RequestRejected:
            self._close_launcher()

    def _close_launcher(self) -> None:
        """Stop the launcher and any engine at once."""
        assert self._launcher.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._launcher.stdin.close()

    def _handle_event(self, event: dict[str, Any]) -> None:
        print(f"standby: {json.dumps(event)}", file=sys.stderr, flush=True)
        with self._lock:
            if event["event"] == "ready":
                self._ready = event
            elif event["event"] == "started" and self._engine is not None:
                self._engine["pid"] = event["pid"]
            elif event["event"] == "exited" and self._engine is not None:
                ended = {"model": self._engine["model"], "status": event["status"], "log": list(self._lines)}
                self._engine, self._last = None, ended
                self.failed = not self._stopping
                if self._shutting_down or self.failed:
                    self._close_launcher()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._launcher.stdin is not None
        try:
            self._launcher.stdin.write(json.dumps(command).encode() + b"\n")
            self._launcher.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise RequestRejected(503, "the launcher is gone; the container ends and is restarted") from error

    def _copy_log(self) -> None:
        """Copy the engine's output to stderr. The pipe is also open for writing, so it does not close with an engine."""
        with os.fdopen(os.open(self._fifo, os.O_RDWR), encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._lines.append(line.rstrip("\n"))
                print(line, end="", file=sys.stderr, flush=True)


def _port(argv: list[str]) -> int | None:
    """The last port in an engine's arguments; None without one."""
    port = None
    for argument, following in itertools.pairwise([*argv, ""]):
        name, sign, value = argument.partition("=")
        value = value if sign else following
        if name == "--port" and re.fullmatch("[0-9]{1,5}", value):
            port = int(value)
    return port


def _fetch_first_answer(port: int | None) -> dict[str, Any]:
    """The result of the answer check from the engine on this port; not_asked if it sends none."""
    default = {"answer": "not_asked", "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    if port is None:
        return default
    try:
        engine = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_TIMEOUT_SECONDS)
        with contextlib.closing(engine) as connection:
            connection.request("GET", "/llmariner/answer")
            response = connection.getresponse()
            if response.status != 200:
                return default
            reply = json.loads(response.read(_MAX_ANSWER_BYTES))
            return {name: reply[name] for name in default}
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return default


class _Handler(BaseHTTPRequestHandler):
    standby: Standby
    token: str
    protocol_version = "HTTP/1.1"
    timeout = _CONNECTION_TIMEOUT_SECONDS  # each connection holds a thread

    def do_GET(self) -> None:
        if self.path == "/live":
            self._answer(200, {})
        elif self.path == "/ready":
            self._answer(200 if self.standby.available else 503, {})
        elif self.path == "/status":
            self._answer(200, self.standby.status())
        else:
            self._answer(404, {"error": "GET /live, /ready or /status; POST /start or /stop"})

    def do_POST(self) -> None:
        actions = {"/start": self.standby.start, "/stop": self.standby.stop}
        try:
            body = self._body()
            if self.path not in actions:
                raise RequestRejected(404, "POST /start or /stop")
            actions[self.path](body)
        except RequestRejected as rejection:
            self._answer(rejection.status, {"error": str(rejection)})
        else:
            self._answer(202, {})

    def _body(self) -> dict[str, Any]:
        """The JSON object of an authorized request; the body is always read, so the connection can be reused."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            raise RequestRejected(411, f"a Content-Length of at most {_MAX_BODY_BYTES} is needed")
        raw = self.rfile.read(int(length))
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise RequestRejected(401, "Authorization: Bearer with the word of STANDBY_TOKEN is needed")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise RequestRejected(400, f"the body is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise RequestRejected(400, "the body must be a JSON object")
        return body

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """No access log: probes come every second, and the launcher's events are logged."""


def main() -> int:
    """Serve until SIGTERM or the launcher's exit; returns 0, or 1 if the launcher or its engine exited by itself."""
    # The launcher and engines must not get the token: it is removed from their environment, and a process that is not
    # dumpable hides its /proc/<pid>/environ and memory from other processes of the same user.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    token = os.environ.pop("STANDBY_TOKEN", None)
    if not token:
        sys.exit("STANDBY_TOKEN is not set: without it anybody in the cluster could start engines here.")
    standby = Standby(Path(os.environ.get("TMPDIR", "/tmp")))
    handler = type("Handler", (_Handler,), {"standby": standby, "token": token})
    # The pod's address: NetworkPolicies and the token restrict callers.
    server = ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("CONTROL_PORT", "8090"))), handler)  # noqa: S104
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop_requested = threading.Event()
    grace = float(os.environ.get("STANDBY_GRACE", "70"))

    def end(*_: object) -> None:
        stop_requested.set()
        threading.Thread(target=standby.shut_down, args=(grace,), daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    standby.run()
    # The engine's last lines may still be in the pipe.
    time.sleep(0.2)
    return 1 if standby.failed or not stop_requested.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
