"""Runs the scripts of this folder in the engine environment.

Each is a child process that reports progress and exits with its parent.
"""

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
    """The script was killed because the platform stops; it is run again after the next start."""


class Scripts:
    """Running scripts; thread-safe. `silence_timeout`: seconds without output after which a script is killed."""

    def __init__(self, environment: EngineEnvironment, *, silence_timeout: float = _SILENCE_TIMEOUT_SECONDS) -> None:
        self._environment = environment
        self._silence_timeout = silence_timeout
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._killed_silent: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, script: Path, arguments: list[str], on_progress: Callable[[dict[str, object]], None]) -> None:
        """Run a script to its end. `on_progress` gets each JSON line that it prints; if it raises, the script is killed.

        Raises OSError with the last lines of its errors, ScriptInterrupted after `close`. Blocks.
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
                # Its input is closed only after it exited, since closing it ends the script.
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
        """Kill a script without output for `silence_timeout` seconds."""
        while process.poll() is None:
            if not got_line.wait(self._silence_timeout):
                self._killed_silent.add(process)
                process.kill()
                return
            got_line.clear()

    def close(self) -> None:
        """Kill all running scripts; `run` raises ScriptInterrupted from now on."""
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
