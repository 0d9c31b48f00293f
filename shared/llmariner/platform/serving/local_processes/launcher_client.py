"""Client of the launcher process: starts it, sends commands, reports exits of engines and of the launcher."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["LauncherClient", "LauncherExited", "kill_orphans"]

_SCRIPT = Path(__file__).with_name("launcher.py")
_MARK = "LLMARINER_ENGINES_OF"
_START_TIMEOUT_SECONDS = 900.0
"""Covers the import of vLLM from a slow disk with cold caches."""
_FORK_TIMEOUT_SECONDS = 60.0
"""A fork takes milliseconds unless the launcher is swapped out."""


class LauncherExited(Exception):
    """The launcher exited, or was killed because it did not respond; its engines ended with it."""


class LauncherClient:
    """One launcher process, started on demand and again after it exited.

    `on_exit` gets the pid of each engine that exits, and the seconds of processor time that it used. `start_timeout` and
    `fork_timeout` in seconds: a launcher that does not respond within them, at its start or at a command, is killed.
    """

    def __init__(
        self,
        python: Path,
        environment: dict[str, str],
        logs: Path,
        on_exit: Callable[[int, float], None],
        *,
        warm: bool = True,
        start_timeout: float = _START_TIMEOUT_SECONDS,
        fork_timeout: float = _FORK_TIMEOUT_SECONDS,
    ) -> None:
        self._start_timeout = start_timeout
        self._fork_timeout = fork_timeout
        self._python = python
        self._environment = environment
        self._logs = logs
        self._on_exit = on_exit
        self._wants_warm = warm
        self._process: Process | None = None
        self._ready: asyncio.Event = asyncio.Event()
        self._starting = asyncio.Lock()
        self._pids: dict[str, asyncio.Future[int]] = {}
        self._engines: set[int] = set()
        self._reader: asyncio.Task[None] | None = None
        self.warm = False
        self.reason: str | None = None

    @property
    def pid(self) -> int | None:
        """The launcher's process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the launcher unless it runs, and wait until it is ready. Raises LauncherExited."""
        async with self._starting:
            if self.pid is None:
                await self._spawn()
        process = self._process
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._ready.wait()
        except TimeoutError:
            raise self._kill_unresponsive(process, self._start_timeout) from None
        if self.pid is None:
            raise LauncherExited("The engine launcher ended at its start; see launcher.log beside the platform's log.")

    async def start_engine(self, model: str, arguments: list[str], log: Path, temporary: Path) -> int:
        """Fork an engine with `temporary` as its TMPDIR; returns its process id. Raises LauncherExited."""
        await self.start()
        waiter = self._pids[model] = asyncio.get_running_loop().create_future()
        environment = {"TMPDIR": str(temporary)}
        command = {"op": "start", "model": model, "argv": arguments, "environment": environment, "log": str(log)}
        forking = asyncio.create_task(self._fork(command, waiter))
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            # The fork happens all the same, and no other code would stop it.
            with contextlib.suppress(LauncherExited):
                await self.stop_engine(await forking, 0.0)
            raise

    async def _fork(self, command: dict[str, Any], waiter: asyncio.Future[int]) -> int:
        process = self._process
        await self._send(command)
        try:
            async with asyncio.timeout(self._fork_timeout):
                return await asyncio.shield(waiter)
        except TimeoutError:
            raise self._kill_unresponsive(process, self._fork_timeout) from None

    def _kill_unresponsive(self, process: Process | None, seconds: float) -> LauncherExited:
        """Kill a launcher that does not respond; returns the error to raise."""
        if process is not None and process.returncode is None:
            process.kill()
        return LauncherExited(
            f"The engine launcher did not answer for {seconds:g} s, and was ended with its engines; the next request "
            "starts another. See launcher.log beside the platform's log."
        )

    async def stop_engine(self, pid: int, grace: float) -> None:
        """Send SIGTERM to an engine, and SIGKILL after `grace` seconds. Raises LauncherExited."""
        if self.pid is not None:
            await self._send({"op": "stop", "pid": pid, "grace": grace})

    def kill_engine(self, pid: int) -> None:
        """Kill an engine directly. No effect if the launcher has reported its exit."""
        if pid in self._engines:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    async def close(self) -> None:
        """Stop the launcher and with it every engine."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(12):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        if self._reader is not None:
            await self._reader

    async def _spawn(self) -> None:
        self._ready.clear()
        arguments = [str(self._python), str(_SCRIPT), *([] if self._wants_warm else ["--plain"])]
        with (self._logs / "launcher.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=self._environment_with_mark(),
                start_new_session=True,
            )
        self._reader = asyncio.create_task(self._read(self._process))

    def _environment_with_mark(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_PRELOAD") if name in os.environ}
        return {**passed, **self._environment, _MARK: str(self._logs)}

    async def _send(self, command: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise LauncherExited("The engine launcher is gone.")
        try:
            async with asyncio.timeout(self._fork_timeout):
                process.stdin.write(json.dumps(command).encode() + b"\n")
                await process.stdin.drain()
        except TimeoutError:
            raise self._kill_unresponsive(process, self._fork_timeout) from None
        except (BrokenPipeError, ConnectionResetError) as error:
            raise LauncherExited("The engine launcher is gone.") from error

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._handle_event(json.loads(line))
        await process.wait()
        self._ready.set()
        for waiter in self._pids.values():
            if not waiter.done():
                waiter.set_exception(LauncherExited("The engine launcher ended."))
        self._pids.clear()
        for pid in list(self._engines):
            self._engines.discard(pid)
            self._on_exit(pid, 0.0)

    def _handle_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.warm, self.reason = event["warm"], event["reason"]
            self._ready.set()
        elif event["event"] == "started":
            self._engines.add(event["pid"])
            waiter = self._pids.pop(event["model"])
            if not waiter.done():
                waiter.set_result(event["pid"])
        elif event["event"] == "exited":
            self._engines.discard(event["pid"])
            self._on_exit(event["pid"], event["cpu_seconds"])


def kill_orphans(logs: Path) -> int:
    """Kill processes that an earlier platform with the same log folder left running; returns their number."""
    mark = f"{_MARK}={logs}".encode()
    ended = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
        except (OSError, ValueError):
            continue  # it has exited, or belongs to another user
    return ended
