"""A PostgreSQL server for a test session: in a temporary folder, on loopback, stopped by its process id.

Nothing of it outlives the session, so it may lose its data in a crash: fsync is off.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

__all__ = ["NoPostgres", "running"]

_INSTALLED = Path("/usr/lib/postgresql")
_SECONDS = 60


class NoPostgres(Exception):
    """PostgreSQL is missing and could not be installed; the message has the cause."""


@contextmanager
def running() -> Iterator[str]:
    """Run the server for the block; yields `user@host:port`. Raises NoPostgres."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="llmariner-postgres-"))
    try:
        _own(folder)
        data = folder / "data"
        _run(
            [
                str(programs / "initdb"),
                "-D",
                str(data),
                "-U",
                "app",
                "--auth=trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "-N",
            ]
        )
        port = _free_port()
        with _server(programs, data, port):
            yield f"app@127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = _newest()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install()
        found = _newest()
    if found is None:
        raise NoPostgres(f"PostgreSQL is not installed ({_INSTALLED}), and only root may install it")
    return found


def _newest() -> Path | None:
    servers = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return servers[-1].parent if servers else None


def _install() -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "postgresql"]):
        command = ["apt-get", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise NoPostgres(
                f"PostgreSQL is not installed, and apt-get {words[0]} failed: {done.stderr.strip()[-300:]}"
            )


def _own(folder: Path) -> None:
    """The server rejects root."""
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")


def _user() -> str | None:
    return "postgres" if os.geteuid() == 0 else None


def _run(command: list[str]) -> None:
    done = subprocess.run(command, user=_user(), cwd="/", capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise NoPostgres(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


@contextmanager
def _server(programs: Path, data: Path, port: int) -> Iterator[None]:
    said = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    said |= {"synchronous_commit": "off", "full_page_writes": "off", "max_connections": 50, "shared_buffers": "32MB"}
    options = [part for name, value in said.items() for part in ("-c", f"{name}={value}")]
    log = (data.parent / "log").open("wb")
    command = [str(programs / "postgres"), "-D", str(data), *options]
    process = subprocess.Popen(command, user=_user(), cwd="/", stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, data.parent / "log")
        yield
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
        process.wait(_SECONDS)
        log.close()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="app", dbname="postgres").close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoPostgres(f"PostgreSQL does not start: {log.read_text()[-300:]}") from error
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
