"""Functions as child processes, under both servers of a deployment, with an environment of their own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CHECKOUT",
    "boot_command",
    "engine_command",
    "framework_command",
    "free_port",
    "process",
    "wait_until_listening",
]

CHECKOUT = Path(__file__).resolve().parents[2]
_SECONDS = 60


def framework_command(folder: Path) -> list[str]:
    """The command that runs a function under functions-framework."""
    program = str(Path(sys.executable).with_name("functions-framework"))
    return [program, "--target", "handle", "--source", str(folder / "main.py")]


def boot_command(folder: Path) -> list[str]:
    """The command that runs a function as its image does."""
    return [sys.executable, "-m", "llmariner.boot", str(folder)]


# Child processes run on the test run's simulated clock.
_CLOCK_VARIABLES = ("TZ", "LD_PRELOAD", "CLOCK_SHIFT")


@contextmanager
def process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run a server for the duration of the block; yields its port, which the process reads from `PORT` as on Knative."""
    port = free_port()
    with _listening([part.replace("$PORT", str(port)) for part in command], port, environment, log):
        yield port


def engine_command() -> list[str]:
    """The command of a scripted engine that serves every model name."""
    return [sys.executable, str(CHECKOUT / "tests/engines/scripted.py"), "--port", "$PORT"]


@contextmanager
def _listening(command: list[str], port: int, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    kept = {name: os.environ[name] for name in ("PATH", *_CLOCK_VARIABLES) if name in os.environ}
    said = {**kept, "PORT": str(port), "HOST": "127.0.0.1", **environment}
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, env=said, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_listening(child, port, log)
        yield
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # its remaining workers; the group belongs to the child


def wait_until_listening(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{child.args!r} does not listen: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def free_port() -> int:
    """A free port below the ephemeral range: an outgoing connection could take one before the child listens."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
