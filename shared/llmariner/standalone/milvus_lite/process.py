"""Starts the server of Milvus Lite at its first use, and again after it crashed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from llmariner.environment import Secret, environment
from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.vector_settings import VectorSettings

__all__ = ["MilvusLiteProcess"]

_START_SECONDS = 120.0
"""Reading back what a crashed server had not yet sorted into files takes 15 s for 30,000 chunks."""
_STOP_SECONDS = 20.0
_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 60.0
_INHERITED = ("PATH", "HOME", "LANG", "LD_PRELOAD", "LD_LIBRARY_PATH", "TMPDIR")


class MilvusLiteProcess:
    """One server process for the vectors in `folder`; `log` gets what it says. Its methods are safe in any thread."""

    def __init__(self, folder: Path, log: Path, *, start_seconds: float = _START_SECONDS) -> None:
        self._folder = folder
        self._log = log
        self._start_seconds = start_seconds
        self._token = Secret(secrets.token_urlsafe(32))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: VectorSettings | None = None
        self._starting: Future[VectorSettings] | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def settings(self, seconds: float | None = None) -> VectorSettings:
        """Address and token of the running server, which is started if there is none. Raises VectorIndexUnavailable.

        Waits for a start no longer than `seconds` (None: as long as it may take); it continues without the caller.
        """
        with self._lock:
            if self._settings is not None and self.pid is not None:
                return self._settings
            if self._closed:
                raise VectorIndexUnavailable("The platform is stopping.")
            starting = self._starting
            if starting is None:
                self._check_backoff()
                starting = self._starting = Future()
                threading.Thread(target=self._run_start, args=(starting,), name="milvus-lite", daemon=True).start()
        try:
            return starting.result(seconds)
        except FutureTimeout:
            raise VectorIndexUnavailable("The vector index is starting.") from None

    def close(self) -> None:
        """End the server in order. No call starts another."""
        with self._lock:
            self._closed = True
            starting, process = self._starting, self._process
        if starting is not None:
            if process is not None:
                process.kill()
            wait([starting], _STOP_SECONDS)
        with self._lock:
            self._end(_STOP_SECONDS)

    def _run_start(self, starting: Future[VectorSettings]) -> None:
        try:
            port = self._start()
        except Exception as error:  # whatever it is, those that wait for the start must learn of it
            with self._lock:
                self._failures += 1
                self._failed_at = time.monotonic()
                self._end(0)
                self._starting = None
            failure = VectorIndexUnavailable(f"The vector index did not start: {error}. See {self._log}.")
            failure.__cause__ = error
            starting.set_exception(failure)
            return
        settings = VectorSettings(f"http://127.0.0.1:{port}", token=self._token, index_type="FLAT")
        with self._lock:
            self._failures = 0
            self._settings, self._starting = settings, None
        starting.set_result(settings)

    def _check_backoff(self) -> None:
        if self._failures:
            wait = min(_FIRST_BACKOFF_SECONDS * 2 ** (self._failures - 1), _MAX_BACKOFF_SECONDS)
            if time.monotonic() - self._failed_at < wait:
                raise VectorIndexUnavailable(f"The vector index did not start. See {self._log}.")

    def _start(self) -> int:
        """Start the process; returns its port. Raises OSError or ValueError."""
        self._end(0)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        inherited = {name: value for name, value in environment().items() if name in _INHERITED}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.server", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=inherited,
                start_new_session=True,
            )
        if self._closed:
            raise OSError("the platform is stopping")
        assert self._process.stdin is not None
        self._process.stdin.write(self._token.reveal().encode() + b"\n")
        self._process.stdin.flush()
        return int(json.loads(self._first_line(self._process))["port"])

    def _first_line(self, process: subprocess.Popen[bytes]) -> bytes:
        """What the server prints once it serves. Raises OSError if it ends, or takes too long."""
        assert process.stdout is not None
        deadline = time.monotonic() + self._start_seconds
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise OSError(f"it did not serve within {self._start_seconds:g} s")
                if not (part := os.read(process.stdout.fileno(), 4096)):
                    raise OSError(f"it ended with status {process.wait()}")
                line += part
        return line

    def _end(self, seconds: float) -> None:
        process, self._process, self._settings = self._process, None, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.terminate() if seconds else process.kill()
        try:
            process.wait(seconds or _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
