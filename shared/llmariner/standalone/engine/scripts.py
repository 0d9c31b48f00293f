"""Runs the scripts of this folder in the engine environment: each a child process that tells its progress, and that ends
with the process that started it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from llmariner.standalone.engine.environment import EngineEnvironment

__all__ = ["ScriptInterrupted", "Scripts"]

_RUNNER = Path(__file__).with_name("exit_with_parent.py")
_MAX_ERROR_CHARACTERS = 2000
_SILENCE_TIMEOUT_SECONDS = 1800.0


class ScriptInterrupted(Exception):
    """The script was ended because the platform ends: to be run again after its next start."""


class Scripts:
    """Scripts that run now, from any thread. `silence`: seconds without a line after which one is ended."""

    def __init__(self, environment: EngineEnvironment, *, silence_timeout: float = _SILENCE_TIMEOUT_SECONDS) -> None:
        self._environment = environment
        self._silence_timeout = silence_timeout
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._killed_silent: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, script: Path, arguments: list[str], on_progress: Callable[[dict[str, object]], None]) -> None:
        """Run one to its end; `on_progress` gets each JSON line that it prints, and ends it by raising.

        OSError with its last lines when it fails or falls silent, ScriptInterrupted after `close`.
        """
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = self._start([str(script), *arguments], errors.fileno())
            got_line = threading.Event()
            watchdog = threading.Thread(target=self._kill_when_silent, args=(process, got_line), daemon=True)
            watchdog.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    got_line.set()
                    if line.startswith("{"):
                        on_progress(json.loads(line))
            except BaseException:
                process.kill()
                raise
            finally:
                # Its end is waited for, and its input closed no sooner: the script ends when that does.
                process.wait()
                got_line.set()
                watchdog.join()
                self._close_pipes(process)
            if process.returncode:
                if self._closed:
                    raise ScriptInterrupted(script.name)
                if process in self._killed_silent:
                    self._killed_silent.discard(process)
                    raise OSError(f"{script.name} was ended: it said nothing for {self._silence_timeout:g} s.")
                errors.seek(0)
                raise OSError(f"{script.name} failed:\n{errors.read()[-_MAX_ERROR_CHARACTERS:]}")

    def _kill_when_silent(self, process: subprocess.Popen[str], got_line: threading.Event) -> None:
        """Kill it when it says nothing for too long."""
        while process.poll() is None:
            if not got_line.wait(self._silence_timeout):
                self._killed_silent.add(process)
                process.kill()
                return
            got_line.clear()

    def close(self) -> None:
        """End all that run, and run none any more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(self, arguments: list[str], errors: int) -> subprocess.Popen[str]:
        command, pipe = [str(self._environment.python), str(_RUNNER), *arguments], subprocess.PIPE
        with self._lock:
            if self._closed:
                raise ScriptInterrupted(arguments[0])
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, errors="replace")
            self._running.add(process)
        return process

    def _close_pipes(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
