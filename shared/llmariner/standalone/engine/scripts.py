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

__all__ = ["Interrupted", "Scripts"]

_RUNNER = Path(__file__).with_name("exit_with_parent.py")
_SHOWN_BYTES = 2000
_SILENCE_SECONDS = 1800.0


class Interrupted(Exception):
    """The script was ended because the platform ends: to be run again after its next start."""


class Scripts:
    """Scripts that run now, from any thread. `silence`: seconds without a line after which one is ended."""

    def __init__(self, environment: EngineEnvironment, *, silence: float = _SILENCE_SECONDS) -> None:
        self._environment = environment
        self._silence = silence
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._silent: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, script: Path, arguments: list[str], hear: Callable[[dict[str, object]], None]) -> None:
        """Run one to its end; `hear` gets each JSON line that it prints, and ends it by raising.

        OSError with its last lines when it fails or falls silent, Interrupted after `close`.
        """
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = self._start([str(script), *arguments], errors.fileno())
            heard = threading.Event()
            watch = threading.Thread(target=self._watch, args=(process, heard), daemon=True)
            watch.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    heard.set()
                    if line.startswith("{"):
                        hear(json.loads(line))
            except BaseException:
                process.kill()
                raise
            finally:
                # Its end is waited for, and its input closed no sooner: the script ends when that does.
                process.wait()
                heard.set()
                watch.join()
                self._ended(process)
            if process.returncode:
                if self._closed:
                    raise Interrupted(script.name)
                if process in self._silent:
                    self._silent.discard(process)
                    raise OSError(f"{script.name} was ended: it said nothing for {self._silence:g} s.")
                errors.seek(0)
                raise OSError(f"{script.name} failed:\n{errors.read()[-_SHOWN_BYTES:]}")

    def _watch(self, process: subprocess.Popen[str], heard: threading.Event) -> None:
        """Kill it when it says nothing for too long."""
        while process.poll() is None:
            if not heard.wait(self._silence):
                self._silent.add(process)
                process.kill()
                return
            heard.clear()

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
                raise Interrupted(arguments[0])
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, errors="replace")
            self._running.add(process)
        return process

    def _ended(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
