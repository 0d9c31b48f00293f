"""One run of a job on this machine: its work folder, its limits, the process that looks after it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from llmariner.platform.jobs import Phase
from llmariner.platform.jobs.local_processes.control_group import remove_control_group
from llmariner.platform.jobs.local_processes.disk_usage import delete_tree
from llmariner.platform.jobs.local_processes.job_folder import CREATE_AGAIN, DATA, LIMITS, JobFolder, write_file
from llmariner.platform.jobs.local_processes.settings import ProcessJobSettings
from llmariner.platform.jobs.local_processes.supervisor import Limits, start_supervisor
from llmariner.platform.process_times import ProcessTimes, process_seconds

__all__ = ["Canceled", "JobRun", "JobRunner", "Paused", "Stopped", "wait_for"]

_FIRST_USER_ID = 60_600
"""User ids of jobs where the platform runs as root, one per place. Distributions leave 60578 to 61183 unused."""


@dataclass
class JobRun:
    """A job that is about to run, or runs. Who reads or changes it holds the lock of its runner."""

    project_id: str
    place: int
    brief: bool = False
    thread: threading.Thread | None = None
    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    """The standard input of its supervisor."""
    executions: int = 0
    cancel: bool = False
    pause: bool = False

    def tell(self, line: bytes) -> None:
        """Write a line to the job's supervisor; the empty one closes its input. It may have ended."""
        if self.control is None:
            return
        if line:
            with contextlib.suppress(OSError):
                self.control.send(line)
        else:
            self.control.close()
            self.control = None


class JobRunner:
    """Runs jobs, each in the calling thread. `read_file` gives the bytes of a project's file: (project id, file id).

    `lock` guards the fields of every `JobRun`; `is_closed` says whether the platform stops.
    """

    def __init__(
        self,
        settings: ProcessJobSettings,
        read_file: Callable[[str, str], Iterator[bytes]],
        lock: threading.Condition,
        *,
        is_closed: Callable[[], bool],
        times: ProcessTimes | None = None,
    ) -> None:
        self._settings = settings
        self._read_file = read_file
        self._lock = lock
        self._is_closed = is_closed
        self._times = times or ProcessTimes()

    def prepare(self, folder: JobFolder, run: JobRun) -> None:
        """Make the job's work folder with its scripts and data files. Raises Canceled, Paused, Stopped."""
        self._check_wanted(run)
        job = folder.load()
        delete_tree(folder.work)
        delete_tree(folder.results)  # of an attempt whose end was not noted
        folder.make_work(job)
        for file in job.data_files:
            with (folder.work / DATA / file.name).open("wb") as target:
                for part in self._read_file(job.project_id, file.id):
                    target.write(part)
                    self._check_wanted(run)
        if os.geteuid() == 0:
            user = _FIRST_USER_ID + run.place
            for parent, folders, files in os.walk(folder.work):
                for name in (parent, *(os.path.join(parent, each) for each in (*folders, *files))):
                    os.chown(name, user, user)

    def execute(self, folder: JobFolder, run: JobRun, on_start: Callable[[], None]) -> None:
        """Run a prepared job to its end, or to the end of an attempt. Raises Canceled, Paused, Stopped before it began."""
        with self._lock:
            self._check_wanted(run)
            write_file(folder.path / LIMITS, self._limits(run))
            folder.mark_started()
            run.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with control:
                run.process = start_supervisor(folder, control)
        on_start()
        wait_for(run.process, folder.path.name, self._times)
        remove_control_group(folder)
        with self._lock:
            run.tell(b"")
        if folder.started_at is not None:
            folder.end_attempt(Phase.FAILED, "interrupted", f"The process that looked after it ended.{CREATE_AGAIN}")

    def _check_wanted(self, run: JobRun) -> None:
        if run.cancel:
            raise Canceled
        if run.pause:
            raise Paused
        if self._is_closed():
            raise Stopped

    def _limits(self, run: JobRun) -> str:
        settings = self._settings
        limits = Limits(
            memory_bytes=settings.memory_of(brief=run.brief),
            disk_bytes=settings.disk_bytes,
            free_disk_bytes=settings.free_disk_bytes,
            seconds=settings.seconds_of(brief=run.brief),
            path=f"{settings.python.parent}:/usr/local/bin:/usr/bin:/bin",
            processors=settings.processors(run.place),
            readable=settings.readable,
            hidden=settings.hidden,
            user_id=_FIRST_USER_ID + run.place,
        )
        return json.dumps(asdict(limits))


def wait_for(process: subprocess.Popen[bytes], workload_id: str, times: ProcessTimes) -> None:
    """Wait for the end of a workload's first process, and note the processor time of all that ran below it."""
    times.begin(workload_id, process.pid)
    with contextlib.suppress(ChildProcessError):  # it was waited for already
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    times.end(workload_id, process_seconds(process.pid))
    process.wait()


class Canceled(Exception):
    """The job was canceled before it began."""


class Paused(Exception):
    """The job was paused before it began."""


class Stopped(Exception):
    """The platform stopped before the job began."""
