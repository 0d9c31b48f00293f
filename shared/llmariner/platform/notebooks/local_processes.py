"""Notebooks adapter for one machine: JupyterLab as a child process in the sandbox of jobs, in a folder that is kept.

The folder of a notebook is that of a job (`jobs.local_processes.job_folder`) whose work folder stays. It is the truth: what
a killed platform left is found there. A server ends with the platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from llmariner.platform.jobs import Job, Network, Phase
from llmariner.platform.jobs.local_processes.control_group import remove_control_group
from llmariner.platform.jobs.local_processes.disk_usage import NotMeasurable, delete_tree, used_bytes
from llmariner.platform.jobs.local_processes.job_folder import LIMITS, TEMPORARY, JobFolder, write_file
from llmariner.platform.jobs.local_processes.job_run import wait_for
from llmariner.platform.jobs.local_processes.supervisor import Limits, start_supervisor
from llmariner.platform.notebooks import ENDED_BY_ITSELF, NotebookServer, ServerPhase, ServerStatus
from llmariner.platform.notebooks.jupyter import SOCKET, jupyter_command, jupyter_environment
from llmariner.platform.notebooks.socket_connection import connect_below
from llmariner.platform.process_times import ProcessTimes
from llmariner.platform.processors import usable_cores

__all__ = ["NotebookMemory", "ProcessNotebookSettings", "ProcessNotebooks"]

_log = logging.getLogger(__name__)
_USER_IDS = range(60_700, 61_184)
"""User ids of notebooks where the platform runs as root, one per folder. Distributions leave 60578 to 61183 unused."""
_user_ids_lock = threading.Lock()
_RETRY_SECONDS = 1.0
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0
_ROOM_BYTES = 64 * 1024**2
"""What a notebook that is full may write after its start, so that its files can be deleted."""
_INTERRUPTED = "The platform stopped while it ran. Its files are kept: start it again."


class NotebookMemory(Protocol):
    """The memory and cores that notebooks share with engines and jobs. The methods may be called in any thread."""

    def reserve(self, owner: str, project_id: str, amounts: tuple[int, int]) -> str:
        """Reserve bytes and thousandths of a core; returns why there is no room now, else the empty string."""

    def release(self, owner: str) -> None:
        """Give it back. Idempotent."""

    def refusal(self, size_bytes: int) -> str:
        """Why so much can never be reserved; empty where it can."""


@dataclass(frozen=True)
class ProcessNotebookSettings:
    """Where notebooks run, and their limits. `readable`, `hidden`: as in `Sandbox`; `platform`: as in `Limits`."""

    folder: Path
    python: Path
    platform: str
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    idle_seconds: int
    seconds: float
    free_disk_bytes: int
    network: Network = Network.INTERNET


@dataclass
class _Run:
    """A server that is about to run, or runs. Who reads or changes it holds the adapter's lock."""

    status: ServerStatus
    thread: threading.Thread | None = None
    control: socket.socket | None = None
    stop: bool = False


class ProcessNotebooks:
    """See the module. `install` makes the environment of JupyterLab, unless it is there; raises OSError.

    `problem` says why nothing can run in a sandbox here; empty where it can.
    """

    def __init__(
        self,
        settings: ProcessNotebookSettings,
        memory: NotebookMemory,
        install: Callable[[], None],
        problem: Callable[[], str] = str,
        times: ProcessTimes | None = None,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._install = install
        self._problem = problem
        self._times = times or ProcessTimes()
        self._changed = threading.Condition(threading.RLock())
        self._runs: dict[str, _Run] = {}
        self._removed: set[str] = set()
        self._observers: list[Callable[[str], None]] = []
        self._closed = False
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def close(self) -> None:
        """End the running servers, which fail as interrupted."""
        with self._changed:
            self._closed = True
            runs = list(self._runs.values())
            for each in runs:
                _tell(each, b"")
            self._changed.notify_all()
        for each in runs:
            if each.thread is not None:
                each.thread.join(_STOP_SECONDS)

    @property
    def problem(self) -> str:
        """See the port."""
        return self._problem()

    @property
    def images(self) -> Mapping[str, str]:
        """See the port."""
        return {"jupyter-lab-base": ""}

    @property
    def has_gpus(self) -> bool:
        """See the port."""
        return False

    def check_size(self, millicores: int, memory_bytes: int) -> str:
        """See the port."""
        cores = usable_cores()
        if millicores > 1000 * cores:
            return f"It needs {millicores / 1000:g} cores, and this machine has {cores}."
        return self._memory.refusal(memory_bytes)

    def start(self, server: NotebookServer) -> None:
        """See the port."""
        with self._changed:
            if self._closed or server.notebook_id in self._runs or server.notebook_id in self._removed:
                return
            run = _Run(ServerStatus(server.run, ServerPhase.QUEUED, time.time()))
            self._runs[server.notebook_id] = run
            run.thread = threading.Thread(target=self._run, args=(server, run), name=server.notebook_id, daemon=True)
            run.thread.start()

    def stop(self, notebook_id: str) -> None:
        """See the port."""
        with self._changed:
            if (run := self._runs.get(notebook_id)) is not None:
                run.stop = True
                _tell(run, b"cancel\n")
                self._changed.notify_all()

    def remove(self, notebook_id: str) -> bool:
        """See the port."""
        self.stop(notebook_id)
        folder = self._folder(notebook_id)
        with self._changed:
            if notebook_id in self._runs or notebook_id in self._removed:
                return False
            if not folder.path.exists():
                return True
            self._removed.add(notebook_id)
        try:  # without the lock of all notebooks: there may be many files
            with contextlib.suppress(TimeoutError), folder.lock(seconds=0.5):
                remove_control_group(folder)
                delete_tree(folder.path)
            return not folder.path.exists()
        finally:
            with self._changed:
                self._removed.remove(notebook_id)

    def status(self, notebook_id: str) -> ServerStatus | None:
        """See the port."""
        folder = self._folder(notebook_id)
        with self._changed:
            if (run := self._runs.get(notebook_id)) is not None:
                return run.status
            number = _number_in(folder.path / "run")
            if number is None:
                return None
            result, started_at = folder.result(), folder.started_at
            if result is None:
                since = started_at or time.time()
                return ServerStatus(number, ServerPhase.FAILED, since, "interrupted", _INTERRUPTED)
            if result.phase is Phase.CANCELED:
                return ServerStatus(number, ServerPhase.STOPPED, result.since)
            if result.phase is Phase.SUCCEEDED:
                return ServerStatus(number, ServerPhase.STOPPED, result.since, "ended", ENDED_BY_ITSELF)
            reason = _INTERRUPTED if result.code == "interrupted" else f"{result.reason} Its files are kept."
            return ServerStatus(number, ServerPhase.FAILED, result.since, result.code, reason)

    async def connect(self, notebook_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See the port."""
        return await connect_below(self._folder(notebook_id).work, SOCKET)

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """See the port."""
        self._observers.append(observer)

    def _folder(self, notebook_id: str) -> JobFolder:
        return JobFolder(self._settings.folder / notebook_id)

    def _run(self, server: NotebookServer, run: _Run) -> None:
        """Run a server to its end, in a thread of its own."""
        folder = self._folder(server.notebook_id)
        try:
            prepare_folder(folder, server.run)
            self._note(server.notebook_id, run, ServerPhase.INITIALIZING, "JupyterLab is installed.")
            self._install()
            if self._wait_for_room(server, run):
                self._execute(folder, server, run)
            elif run.stop:
                folder.save_result(Phase.CANCELED)
        except Exception as error:  # the server must end in some way
            _log.exception("notebook %s failed to start", server.notebook_id)
            with contextlib.suppress(OSError):
                folder.save_result(Phase.FAILED, "start_failed", f"It could not be started: {type(error).__name__}.")
        finally:
            with contextlib.suppress(Exception):
                self._memory.release(server.notebook_id)
            (folder.path / "job.json").unlink(missing_ok=True)  # it has secrets
            with self._changed:
                self._runs.pop(server.notebook_id, None)
                self._changed.notify_all()
            self._notify(server.notebook_id)

    def _wait_for_room(self, server: NotebookServer, run: _Run) -> bool:
        """Reserve what a server needs as soon as it is there; False where it was stopped before."""
        while not (run.stop or self._closed):
            amounts = (server.memory_bytes, server.millicores)
            if not (reason := self._memory.reserve(server.notebook_id, server.project_id, amounts)):
                return True
            self._note(server.notebook_id, run, ServerPhase.QUEUED, reason)
            with self._changed:
                if not run.stop:
                    self._changed.wait(_RETRY_SECONDS)
        return False

    def _execute(self, folder: JobFolder, server: NotebookServer, run: _Run) -> None:
        settings = self._settings
        command = jupyter_command(server, idle_seconds=settings.idle_seconds)
        environment = jupyter_environment(server)
        folder.save(Job(server.notebook_id, server.project_id, command, environment, network=settings.network))
        write_file(folder.path / LIMITS, json.dumps(asdict(self._limits(folder, server))))
        with self._changed:
            if run.stop or self._closed:
                folder.save_result(Phase.CANCELED if run.stop else Phase.FAILED, "" if run.stop else "interrupted")
                return
            folder.mark_started()
            run.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with control:
                process = start_supervisor(folder, control)
        self._note(server.notebook_id, run, ServerPhase.INITIALIZING, "JupyterLab starts.")
        self._await_ready(server.notebook_id, run, process)
        wait_for(process, server.notebook_id, self._times)
        remove_control_group(folder)
        with self._changed:
            _tell(run, b"")
        if folder.result() is None:
            folder.end_attempt(Phase.FAILED, "interrupted", "The process that looked after it ended.")

    def _await_ready(self, notebook_id: str, run: _Run, process: subprocess.Popen[bytes]) -> None:
        """Note that a server runs once its socket takes connections. One that never does is ended."""
        deadline = time.monotonic() + _READY_SECONDS
        while process.poll() is None:
            with contextlib.suppress(OSError):
                asyncio.run(self._probe(notebook_id))
                self._note(notebook_id, run, ServerPhase.RUNNING, "")
                return
            if time.monotonic() > deadline:
                self._folder(notebook_id).save_result(
                    Phase.FAILED, "start_failed", f"JupyterLab did not listen after {_READY_SECONDS:g} s."
                )
                with self._changed:
                    _tell(run, b"cancel\n")
                return
            time.sleep(_POLL_SECONDS)

    async def _probe(self, notebook_id: str) -> None:
        _, writer = await self.connect(notebook_id)
        writer.close()

    def _limits(self, folder: JobFolder, server: NotebookServer) -> Limits:
        settings, processors = self._settings, sorted(os.sched_getaffinity(0))
        try:
            used = used_bytes(folder.work)
        except NotMeasurable:
            used = server.storage_bytes
        user_id = user_id_of(settings.folder, folder)
        if os.geteuid() == 0:
            for path in (folder.work, folder.work / TEMPORARY):
                os.chown(path, user_id, user_id, follow_symlinks=False)
        return Limits(
            memory_bytes=server.memory_bytes,
            disk_bytes=max(server.storage_bytes, used + _ROOM_BYTES),
            free_disk_bytes=settings.free_disk_bytes,
            seconds=settings.seconds,
            path=f"{settings.python.parent}:/usr/local/bin:/usr/bin:/bin",
            processors=tuple(processors[: max(1, -(-server.millicores // 1000))]),
            readable=settings.readable,
            hidden=settings.hidden,
            user_id=user_id,
            keeps_files=True,
            platform=settings.platform,
            terminals=True,
        )

    def _note(self, notebook_id: str, run: _Run, phase: ServerPhase, reason: str) -> None:
        with self._changed:
            changed = run.status.phase is not phase
            since = time.time() if changed else run.status.since
            run.status = replace(run.status, phase=phase, since=since, reason=reason)
        if changed:
            self._notify(notebook_id)

    def _notify(self, notebook_id: str) -> None:
        for observer in self._observers:
            try:
                observer(notebook_id)
            except Exception:  # the server continues; a later look at its status finds the same
                _log.exception("the change of notebook %s was not recorded", notebook_id)


def prepare_folder(folder: JobFolder, run: int) -> None:
    """Make the folder of a notebook, or make it ready for a further start. No process of the notebook may run.

    Whatever it left in the place of its folder for temporary files is replaced, since that one is mounted.
    """
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder.lock(seconds=_STOP_SECONDS):  # a supervisor whose platform was killed may still end
        remove_control_group(folder)
        for path in (folder.root, folder.work):
            path.mkdir(mode=0o755, exist_ok=True)
        temporary = folder.work / TEMPORARY
        if temporary.is_symlink() or temporary.is_file():
            temporary.unlink()
        delete_tree(temporary)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(mode=0o755)
        for name in ("result.json", "started"):
            (folder.path / name).unlink(missing_ok=True)
        write_file(folder.path / "run", str(run))


def user_id_of(parent: Path, folder: JobFolder) -> int:
    """The user id of a notebook: its own as long as its folder is there. Raises OSError where all are taken."""
    own = folder.path / "user"
    with _user_ids_lock:  # else two that start at once choose the same
        if (found := _number_in(own)) is not None:
            return found
        taken = {_number_in(path) for path in parent.glob("*/user")}
        free = next((each for each in _USER_IDS if each not in taken), None)
        if free is None:
            raise OSError("this machine has as many notebooks as it can have")
        write_file(own, str(free))
        return free


def _number_in(file: Path) -> int | None:
    """The number in a file; None where there is none, or no file any more."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _tell(run: _Run, line: bytes) -> None:
    """Write a line to a server's supervisor; the empty one closes its input. It may have ended."""
    if run.control is None:
        return
    if line:
        with contextlib.suppress(OSError):
            run.control.send(line)
    else:
        run.control.close()
        run.control = None
