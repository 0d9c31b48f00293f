"""Child processes of the benchmark: started with a log, waited for, ended by their own process ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .process_cost import tree
from .target import Started, Target


class StartError(RuntimeError):
    """A process ended, or stayed silent, before it answered."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def spawn(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Politely first; then whatever of its tree is left, also what its root leaves behind."""
    members = tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for member in members if process.returncode is None else members[1:]:
        _kill(member)
    process.wait(5)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
    """StartError when the process ends, or stays silent for so many seconds, before it listens."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise StartError(last_words(process, log))
        time.sleep(0.002)


def last_words(process: subprocess.Popen[bytes], log: Path) -> str:
    """Why a process may have failed: its state and the last line it wrote."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["(silent)"]
    state = "still silent" if process.poll() is None else f"ended with {process.returncode}"
    return f"{Path(process.args[0]).name if isinstance(process.args, list) else ''} {state}: {lines[-1][:300]}"


@contextmanager
def running(target: Target, folder: Path, seconds: float = 120) -> Iterator[Started]:
    """A target that listens on its port for as long as the block lasts, its companions before it."""
    with ExitStack() as companions:
        for companion in target.companions:
            companions.enter_context(running(companion, folder))
        log = folder / f"{target.name}.log"
        process = spawn(target.command, target.environment, log)
        try:
            wait_until_listening(process, target.port, log, seconds)
            yield Started(target.name, target.port, process.pid, target.headers)
        finally:
            stop(process)
