"""`llma up`, `down`, `logs`: installs what is missing, starts the platform as a background process, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmariner.compiled import is_active
from llmariner.platform.serving.local_processes.engine import log_name
from llmariner.server import Server, ServerLimits
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone import local_http
from llmariner.standalone.compiled_code import compile_in_background, with_compiled_code
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.platform import HomeFolder, StandalonePlatform, write_private
from llmariner.standalone.progress import Step, megabytes
from llmariner.standalone.setup import set_up
from llmariner.standalone.warmup import warm_up

__all__ = [
    "MIN_FREE_BYTES",
    "StartFailed",
    "down",
    "engine_environment",
    "logs",
    "running_pid",
    "runs_compiled",
    "serve",
    "up",
]

MIN_FREE_BYTES = 64_000_000
"""Free bytes that a start requires on the disk of the home folder, for database, journal and logs."""

_START_SECONDS = 60.0
_STOP_SECONDS = 40.0
_KILL_SECONDS = 10.0
_LOCK_WAIT_SECONDS = 1.0
_RESPONSE_TIMEOUT_SECONDS = 20.0


class StartFailed(Exception):
    """The platform did not start; the message has the reason and the remedy."""


def engine_environment(settings: StandaloneSettings) -> EngineEnvironment:
    """The engine environment of this checkout's lock file."""
    return EngineEnvironment(settings.cache, engine_lock())


def running_pid(settings: StandaloneSettings) -> int | None:
    """The platform's process id if it runs and listens; else None."""
    pid = _lock_holder(settings.root)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if pid is not None and json.loads((settings.root / "platform.json").read_text())["pid"] == pid:
            return pid
    return None


def runs_compiled(settings: StandaloneSettings) -> bool:
    """Whether the running platform uses the compiled token path."""
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((settings.root / "platform.json").read_text()).get("compiled"))
    return False


def up(*, foreground: bool) -> None:
    """Install what is missing, start the platform, print how to use it. Raises StartFailed."""
    settings = StandaloneSettings.load(environment())
    began = time.monotonic()
    if pid := running_pid(settings):
        if not _responds(settings, seconds=_RESPONSE_TIMEOUT_SECONDS):
            raise StartFailed(
                f"The platform (process {pid}) runs but does not answer. End it with `llma down`, then start it."
            )
        print(f"The platform runs already at {settings.base_url}.")
        _print_instructions(settings, new_key=False)
        return
    _check_port(settings)
    _check_disk(settings)
    _check_home(settings.root)
    engines = engine_environment(settings)
    set_up(settings, engines)
    had_key = HomeFolder(settings.root).admin_key.exists()
    if foreground:
        asyncio.run(serve(settings))
        return
    _spawn(settings)
    compile_in_background(settings.cache, HomeFolder(settings.root).logs / "compile.log")
    mismatches = warm_up(settings.base_url, HomeFolder(settings.root).admin_key.read_text(), engines)
    print(f"The platform is up at {settings.base_url} after {time.monotonic() - began:.1f} s; its models sleep.")
    _print_instructions(settings, new_key=not had_key)
    for mismatch in mismatches:
        print(f"Engines on this machine do not answer as expected. {mismatch}. See `llma doctor`.", file=sys.stderr)


def down() -> bool:
    """Stop the platform and its engines, also during its start; False if it was not running."""
    settings = StandaloneSettings.load(environment())
    pid = _lock_holder(settings.root)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError), Step("stopping the platform"):
        for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while (still_running := _lock_holder(settings.root) == pid) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not still_running:
                break
    return True


def logs(model: str | None, *, follow: bool, lines: int) -> None:
    """Print the last lines of the platform's log, or of a model's engine. Raises StartFailed if there is none."""
    folder = HomeFolder(StandaloneSettings.load(environment()).root).logs
    name = "platform.log" if model is None else log_name(model)
    file = folder / name
    if not file.exists():
        known = ", ".join(sorted(path.name for path in folder.glob("*.log"))) or "none yet"
        raise StartFailed(f"There is no log {name} in {folder}. There are: {known}.")
    arguments = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(file)]
    subprocess.run(arguments, check=False)


async def serve(settings: StandaloneSettings) -> None:
    """Run the platform in this process until SIGTERM or SIGINT."""
    with _lock(settings.root):
        platform = StandalonePlatform(settings, environment(), engine_environment(settings))
        platform.prepare()
        router = await platform.start()
        limits = ServerLimits.load(environment())
        server = Server(router, host=settings.host, port=settings.port, grace=5, limits=limits)
        state_file = settings.root / "platform.json"
        state = {"pid": os.getpid(), "host": settings.host, "port": settings.port, "started": time.time()}
        state["compiled"] = is_active()
        try:
            # Written once the port is bound: another program may answer on it before.
            await server.serve(on_listening=lambda: write_private(state_file, json.dumps(state)))
        finally:
            await platform.stop()
            state_file.unlink(missing_ok=True)


def _check_port(settings: StandaloneSettings) -> None:
    """Check before minutes of setup that the platform can bind its port."""
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartFailed(
            f"{settings.host} is no address of this machine: {error.strerror}. Set LLMARINER_HOST to one, such as 127.0.0.1."
        ) from error
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise StartFailed(
                f"Port {settings.port} of {settings.host} can't be had: {error.strerror}. "
                "Another platform or program may hold it; set LLMARINER_PORT to a free one."
            ) from error


def _check_disk(settings: StandaloneSettings) -> None:
    """Check the free disk space of the home: on a full disk the database could not even log the error."""
    existing = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise StartFailed(
            f"Only {megabytes(free)} are free at {existing}; the platform needs {megabytes(MIN_FREE_BYTES)} to start. "
            "Free some, or set LLMARINER_HOME to a folder on another disk."
        )


def _check_home(root: Path) -> None:
    """Create the home folder and check that it can be private; shared folders such as /tmp cannot."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.stat()
    except OSError as error:
        raise StartFailed(
            f"{root} can't be the platform's home: {error.strerror}. Set LLMARINER_HOME to another."
        ) from error
    if found.st_mode & stat.S_ISVTX:
        raise StartFailed(
            f"{root} is a folder for everybody; set LLMARINER_HOME to one of your own, such as one below it."
        )
    if os.geteuid() not in (0, found.st_uid) or not os.access(root, os.W_OK | os.X_OK):
        raise StartFailed(f"{root} is not yours to write; set LLMARINER_HOME to a folder of your own.")


def _spawn(settings: StandaloneSettings) -> None:
    log = HomeFolder(settings.root).logs / "platform.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            # Without -P a file in the working directory would be imported instead of a library.
            [sys.executable, "-P", "-m", "llmariner.standalone.daemon"],
            env=with_compiled_code(os.environ, settings.cache),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS
    with Step("starting the platform"):
        while not _responds(settings):
            # If another platform holds the lock, the new process exits at once, and this waits for the other.
            ended = process.poll() is not None and _lock_holder(settings.root) is None
            if ended or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise StartFailed(f"The platform did not start. The end of {log}:\n{tail}")
            time.sleep(0.05)


def _responds(settings: StandaloneSettings, *, seconds: float = 2) -> bool:
    # Another program may answer on the port: only a platform that holds the home's lock counts.
    if not running_pid(settings):
        return False
    try:
        local_http.get(f"{settings.base_url}/health/live", seconds=seconds)
    except (OSError, ValueError):
        return False
    return True


def _print_instructions(settings: StandaloneSettings, *, new_key: bool) -> None:
    key_file = HomeFolder(settings.root).admin_key
    secret = key_file.read_text() if new_key else f"$(cat {key_file})"
    if new_key:
        print(f"\nYour administrator's API key, shown this once (llma reads it from {key_file}):\n\n  {secret}")
    print(f"\nBase URL for OpenAI SDKs:\n\n  {settings.base_url}/v1\n\nTry it:\n")
    body: dict[str, Any] = {
        "model": "smollm2-135m-instruct",
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    print(f"  curl {settings.base_url}/v1/chat/completions \\")
    print(f'    -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" \\')
    print(f"    -d '{json.dumps(body)}'\n")


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Lock the home folder, since two platforms would conflict over engines and ledger. The file holds the pid."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("a+") as file:
        if not _try_lock(file.fileno()):
            raise StartFailed(f"Another platform runs in {root}; end it with `llma down`.")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(file: int) -> bool:
    """Lock an open file; False if it stays locked. Retries briefly, since `_lock_holder` locks it to test it."""
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def _lock_holder(root: Path) -> int | None:
    """The process that holds the home's lock, or None. Without the lock a written process id may have been reused."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), (root / "lock").open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Earlier releases leave the lock file empty.
            return int(file.read() or json.loads((root / "platform.json").read_text())["pid"])
        fcntl.flock(file, fcntl.LOCK_UN)
    return None


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        try:
            loop.run(serve(StandaloneSettings.load(environment())))
        except StartFailed as error:
            sys.exit(str(error))
