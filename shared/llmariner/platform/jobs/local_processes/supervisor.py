"""The process that looks after one running job: keeps its output, ends it at its limits, notes how it ended.

    cd FOLDER; python -m llmariner.platform.jobs.local_processes.supervisor

The job may read the command line, so it names nothing. The file `limits.json` has the fields of `Limits`. The line `cancel`
or `pause` on standard input, a socket, ends the job. The end of the input does too, since then the platform has stopped or
crashed. A job never outlives its supervisor. Other messages are those of `execution`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmariner.platform.jobs import Job, Network, Phase
from llmariner.platform.jobs.local_processes import disk_usage
from llmariner.platform.jobs.local_processes.control_group import (
    ControlGroup,
    make_control_group,
    remove_control_group,
)
from llmariner.platform.jobs.local_processes.execution import read_request
from llmariner.platform.jobs.local_processes.job_folder import CREATE_AGAIN, LIMITS, OUTPUT, TEMPORARY, JobFolder
from llmariner.platform.jobs.local_processes.output_log import OutputLog
from llmariner.platform.jobs.local_processes.proxy_process import proxy_environment, start_proxy
from llmariner.platform.jobs.local_processes.result_folder import keep_results
from llmariner.platform.jobs.local_processes.sandbox import Sandbox, join, spawn
from llmariner.platform.serving.local_processes.memory import process_bytes, process_tree

__all__ = ["Limits", "Supervisor", "main", "start_supervisor"]

_PR_SET_CHILD_SUBREAPER = 36
_CHECK_SECONDS = 0.5
_LOCK_SECONDS = 20.0
_DISK_SHARE = 10
"""A check of the disk takes at most one of so many parts of the time."""
_READ_BYTES = 64 * 1024
_SIGNALS = frozenset(int(each) for each in signal.valid_signals())


@dataclass(frozen=True)
class Limits:
    """Limits of a job, and what its sandbox is built of; see `ProcessJobSettings` and `Sandbox`.

    `keeps_files`: its work folder stays when it ends. `platform`: the address of this platform (`host:port`), which the job
    reaches through its proxy; empty: it does not.
    """

    memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    seconds: float
    path: str
    processors: tuple[int, ...]
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    user_id: int
    keeps_files: bool = False
    platform: str = ""
    terminals: bool = False

    @classmethod
    def from_json(cls, text: str) -> Limits:
        """Parse a JSON object of all fields."""
        fields: dict[str, Any] = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("processors", "readable", "hidden")}
        return cls(**{**fields, **lists})


@dataclass(frozen=True)
class _End:
    """Why the supervisor ends the job."""

    phase: Phase
    code: str
    reason: str


class Supervisor:
    """Runs the job of a folder once."""

    def __init__(self, folder: JobFolder, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._log = OutputLog(folder.log)
        self._disk_checked_at = 0.0
        self._disk_check_seconds = 0.0
        self._deadline = time.monotonic() + limits.seconds
        self._pid = 0
        self._control = socket.socket(fileno=0)
        self._environment: dict[str, str] = {}
        self._executions: set[int] = set()
        self._proxies: list[int] = []
        self._group: ControlGroup | None = None

    def run(self, job: Job) -> None:
        """Run the job to its end and save the result."""
        self._group = make_control_group(self._folder, self._limits.memory_bytes, len(self._limits.processors))
        self._sandbox = self._sandbox_of(job)
        self._environment = self._environment_of(job)
        output, output_writer = os.pipe()
        report, report_writer = os.pipe()
        proxy = self._start_proxy(job.network) if job.network is Network.INTERNET or self._limits.platform else None
        self._pid = spawn(
            self._sandbox,
            ["/bin/sh", "-c", job.command],
            [{**self._environment, **each} for each in _workers(job)],
            output=output_writer,
            report=report_writer,
            proxy=proxy,
        )
        if proxy is not None:
            proxy.close()
        os.close(output_writer)
        os.close(report_writer)
        end = self._supervise(output)
        self._kill()
        out_of_memory = self._group is not None and self._group.is_out_of_memory
        remove_control_group(self._folder)
        self._drain(output)
        with os.fdopen(report, "rb") as file:
            found = end or (self._out_of_memory() if out_of_memory else _end_of(file.read()))
        has_results = found.phase in (Phase.SUCCEEDED, Phase.FAILED) and found.code != "interrupted"
        if has_results and not self._limits.keeps_files:
            keep_results(self._folder.work / OUTPUT, self._folder.results)
        self._folder.end_attempt(found.phase, found.code, found.reason)

    def _start_proxy(self, network: Network) -> socket.socket:
        """Start the job's proxy, which waits for the socket to listen on."""
        platform, internet = self._limits.platform, network is Network.INTERNET
        process, sender = start_proxy(self._limits.user_id, platform=platform, internet=internet)
        self._proxies.append(process.pid)
        self._environment = {**proxy_environment(), **self._environment}
        return sender

    def _sandbox_of(self, job: Job) -> Sandbox:
        limits = self._limits
        return Sandbox(
            work=str(self._folder.work),
            root=str(self._folder.root),
            readable=(*limits.readable, *job.readable_folders),
            hidden=limits.hidden,
            user_id=limits.user_id,
            processors=limits.processors,
            file_bytes=limits.disk_bytes,
            shared_memory_bytes=limits.memory_bytes // 2,
            network=job.network is Network.MACHINE,
            terminals=limits.terminals,
            control_groups=() if self._group is None else self._group.folders,
        )

    def _environment_of(self, job: Job) -> dict[str, str]:
        """Nothing of the platform's own environment: that has secrets and addresses."""
        own = {
            "PATH": self._limits.path,
            "HOME": "/job",
            "USER": "job",
            "LOGNAME": "job",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(max(1, len(self._limits.processors) // job.worker_count)),
            # Threads that spin while they wait for each other made trainings four times slower on busy cores.
            "OMP_WAIT_POLICY": "PASSIVE",
            "LLMARINER_JOB_ID": job.id,
        }
        return {**own, **job.environment}

    def _supervise(self, output: int) -> _End | None:
        """Keep output and check limits until the job ends by itself (None) or has to be ended."""
        checked_at = 0.0
        open_ends = [0, output]
        while True:
            readable = select.select(open_ends, [], [], _CHECK_SECONDS)[0]
            if 0 in readable and (end := self._receive()) is not None:
                return end
            if output in readable:
                if data := os.read(output, _READ_BYTES):
                    self._log.write(data)
                else:
                    open_ends.remove(output)
            # Not the output's end: a process of somebody else may hold it too, which the job has sent it to.
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return None
            if time.monotonic() - checked_at > _CHECK_SECONDS:
                self._executions = {pid for pid in self._executions if os.waitpid(pid, os.WNOHANG)[0] == 0}
                if end := self._exceeded():
                    return end
                checked_at = time.monotonic()

    def _receive(self) -> _End | None:
        """Do what the platform asks for; returns why the job is to end, if it is."""
        message = read_request(self._control)
        if isinstance(message, bytes):
            return _asked(message)
        if message is not None:
            # The shell finds the program in the job's PATH, and says what is wrong with it.
            argv = ["/bin/sh", "-c", 'exec "$@"', "sh", *message.argv]
            with contextlib.suppress(OSError), contextlib.closing(message):
                self._executions.add(
                    join(self._sandbox, self._pid, argv, self._environment, streams=message.streams, end=message.end)
                )
        return None

    def _processes(self) -> list[int]:
        """All processes of the job, and some of ours."""
        return [pid for root in (self._pid, *self._executions) for pid in process_tree(root)]

    def _exceeded(self) -> _End | None:
        limits = self._limits
        if time.monotonic() > self._deadline:
            return _failed("deadline_exceeded", f"It ran longer than {limits.seconds:g} s, and was ended.")
        if self._group is not None:
            return self._out_of_memory() if self._group.is_out_of_memory else self._disk_exceeded()
        used = sum(map(process_bytes, self._processes())) + self._shared_memory_bytes()
        if used > limits.memory_bytes:
            return _failed(
                "out_of_memory",
                f"It used {used >> 20} MiB of memory and was ended: a job may use {limits.memory_bytes >> 20} MiB.",
            )
        return self._disk_exceeded()

    def _out_of_memory(self) -> _End:
        limit = f"a job may use {self._limits.memory_bytes >> 20} MiB"
        return _failed(
            "out_of_memory", f"Its processes needed more memory together than they may, and were ended: {limit}."
        )

    def _shared_memory_bytes(self) -> int:
        """Bytes in the job's /dev/shm, which belong to no process."""
        for process_one in Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split():
            try:
                found = os.statvfs(f"/proc/{process_one}/root/dev/shm")
            except OSError:
                continue
            # Before the job has its own root directory, this is the machine's.
            if found.f_blocks * found.f_frsize <= self._limits.memory_bytes:
                return (found.f_blocks - found.f_bfree) * found.f_frsize
        return 0

    def _disk_exceeded(self) -> _End | None:
        limits = self._limits
        if disk_usage.free_bytes(self._folder.work) < limits.free_disk_bytes:
            return _failed("evicted", "The machine's disk is nearly full, and the job was ended to keep it usable.")
        if time.monotonic() - self._disk_checked_at < max(1.0, _DISK_SHARE * self._disk_check_seconds):
            return None
        began = time.monotonic()
        try:
            used = disk_usage.used_bytes(self._folder.work)
            used += disk_usage.deleted_bytes(self._processes(), self._folder.work.stat().st_dev)
        except disk_usage.NotMeasurable as error:
            return _failed("disk_limit_exceeded", f"It was ended because {error}.")
        self._disk_checked_at = time.monotonic()
        self._disk_check_seconds = self._disk_checked_at - began
        if used > limits.disk_bytes:
            limit = limits.disk_bytes >> 20
            return _failed(
                "disk_limit_exceeded",
                f"Its files took {used >> 20} MiB, more than the {limit} MiB of a job, and it was ended.",
            )
        return None

    def _kill(self) -> None:
        """End every process of the job and wait for that: the namespace ends with its process 1, that with its parent.

        Process 1 is a child of ours once its parent has ended, and cannot be waited for before all others have.
        """
        for pid in (self._pid, *self._executions, *self._proxies):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _drain(self, output: int) -> None:
        """Keep what the ended job left in the pipe, which may have no end while a process of somebody else holds it."""
        os.set_blocking(output, False)
        left = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
        with contextlib.suppress(BlockingIOError):
            while left > 0 and (data := os.read(output, left)):
                self._log.write(data)
                left -= len(data)
        os.close(output)


def start_supervisor(folder: JobFolder, control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process for the job of a folder. `control`: its standard input."""
    with (folder.path / "supervisor.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", Limits.__module__],
            cwd=folder.path,
            stdin=control.fileno(),
            stdout=log,
            stderr=log,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            start_new_session=True,
        )


def _workers(job: Job) -> list[dict[str, str]]:
    """What the environments of a job's workers differ in: what PyTorch and torchrun read, as on a cluster."""
    if job.worker_count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    number = str(job.worker_count)
    same = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": number, "GLOO_SOCKET_IFNAME": "lo"}
    same |= {"PET_NNODES": number, "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    return [{**same, "RANK": str(rank), "PET_NODE_RANK": str(rank)} for rank in range(job.worker_count)]


def _asked(data: bytes) -> _End:
    if data.startswith(b"cancel\n"):  # perhaps twice, perhaps before the end of the input
        return _End(Phase.CANCELED, "", "")
    if data.startswith(b"pause\n"):
        return _End(Phase.PAUSED, "", "")
    return _failed("interrupted", f"The platform stopped while it ran.{CREATE_AGAIN}")


def _end_of(report: bytes) -> _End:
    """How a job ended that nobody ended, from what the sandbox reported."""
    reports = [json.loads(line) for line in report.splitlines()]
    if errors := [each["error"] for each in reports if "error" in each]:
        return _failed("start_failed", f"The command could not be started: {errors[0]}.")
    if not reports:
        return _failed("killed", "It was killed from outside, perhaps because the machine had no memory left.")
    status = int(reports[0]["status"])
    if os.WIFSIGNALED(status):
        return _killed(os.WTERMSIG(status), "The command was ended by")
    code = os.WEXITSTATUS(status)
    if code == 0:
        return _End(Phase.SUCCEEDED, "", "")
    if code - 128 in _SIGNALS:  # a shell's way to say that a signal ended what it ran
        return _killed(code - 128, f"The command ended with exit code {code}, as after")
    return _failed("exit_code", f"The command ended with exit code {code}.")


def _killed(number: int, what: str) -> _End:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return _failed("killed", f"{what} {name}, perhaps because the machine had no memory left.")
    return _failed("exit_code" if "exit code" in what else "killed", f"{what} {name}.")


def _failed(code: str, reason: str) -> _End:
    return _End(Phase.FAILED, code, reason)


def main() -> None:
    """Run the job of the working directory."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what stops the platform waits for its result
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = JobFolder(Path.cwd())
    # The sandbox's processes inherit the lock: while one of them lives, nobody else acquires it.
    with folder.lock(seconds=_LOCK_SECONDS):
        _run(folder)


def _run(folder: JobFolder) -> None:
    if folder.result() is not None:  # another platform has noted already that this one was interrupted
        return
    limits = Limits.from_json((folder.path / LIMITS).read_text())
    try:
        (folder.work / TEMPORARY).mkdir(exist_ok=True)
        Supervisor(folder, limits).run(folder.load())
    finally:
        if not limits.keeps_files:
            disk_usage.delete_tree(folder.work)


if __name__ == "__main__":
    main()
