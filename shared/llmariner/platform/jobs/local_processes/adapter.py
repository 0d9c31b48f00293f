"""Jobs adapter for one machine: a supervised child process per job, a few at a time, within the memory that engines leave.

The folders of jobs are the truth: a queue survives a restart. A job that ran when the platform stopped has failed as
`interrupted`, since only its author knows whether it may run twice.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from llmariner.errors import NotFound, PlatformError
from llmariner.platform.jobs import Job, JobStatus, LogPart, Phase
from llmariner.platform.jobs.local_processes.disk_usage import delete_tree, free_bytes
from llmariner.platform.jobs.local_processes.job_folder import DATA, LIMITS, SCRIPTS, TEMPORARY, JobFolder, write_file
from llmariner.platform.jobs.local_processes.output_log import read_log
from llmariner.platform.jobs.local_processes.supervisor import Limits

__all__ = ["MemoryBudget", "ProcessJobSettings", "ProcessJobs", "readable_folders"]

_log = logging.getLogger(__name__)
_FIRST_USER_ID = 60_600
"""User ids of jobs where the platform runs as root, one per place. Distributions leave 60578 to 61183 unused."""
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 20.0
_KEPT_RESULTS = 500
"""Ended jobs whose results and logs are kept: with 8 MiB of log each, 4 GB at most."""
_TRIAL = "trial"
_TRIAL_SECONDS = 10.0
_INTERRUPTED = "The platform stopped while it ran. Create it again."


class MemoryBudget(Protocol):
    """The memory that jobs share with engines. Both methods may be called in any thread."""

    def reserve(self, owner: str, size_bytes: int) -> str:
        """Reserve memory; returns why there is none now, else the empty string."""

    def release(self, owner: str) -> None:
        """Give it back. Idempotent."""


@dataclass(frozen=True)
class ProcessJobSettings:
    """Limits of each job, and where it runs.

    `folder`: of the folders of jobs. `python`: the interpreter whose environment commands see first. `readable`, `hidden`:
    as in `Sandbox`. `slots`: jobs that run at a time. `free_disk_bytes`: what jobs must leave free.
    """

    folder: Path
    python: Path
    description: str
    memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    seconds: float
    readable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    slots: int = 1


@dataclass
class _Waiting:
    project_id: str
    reason: str = ""
    not_before: float = 0.0
    """Monotonic time."""


@dataclass
class _Running:
    project_id: str
    place: int
    thread: threading.Thread | None = None
    process: subprocess.Popen[bytes] | None = None
    cancel: bool = False


class ProcessJobs:
    """See the module. `read_file` gives the bytes of a project's file: (project id, file id)."""

    def __init__(
        self,
        settings: ProcessJobSettings,
        read_file: Callable[[str, str], Iterator[bytes]],
        memory: MemoryBudget,
    ) -> None:
        self._settings = settings
        self._read_file = read_file
        self._memory = memory
        self._changed = threading.Condition(threading.RLock())
        self._queue: dict[str, _Waiting] = {}
        self._running: dict[str, _Running] = {}
        self._last_start: dict[str, float] = {}
        self._observers: list[Callable[[str], None]] = []
        self._closed = False
        self._problem = ""
        self._tried = threading.Event()
        self._scheduler = threading.Thread(target=self._schedule, name="jobs", daemon=True)

    def start(self) -> None:
        """Queue what an earlier process left in the queue, note what it left running as ended, and begin to run jobs."""
        self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._settings.folder.iterdir()):
            folder = JobFolder(path)
            if path.name == _TRIAL:
                continue
            if folder.started_at is not None:
                self._end_interrupted(folder)
            elif folder.result() is None:
                try:
                    job = folder.load()
                except (OSError, ValueError, KeyError, TypeError):  # cut off while it was submitted
                    delete_tree(path)
                    continue
                self._queue[job.id] = _Waiting(job.project_id)
        self._scheduler.start()

    def close(self) -> None:
        """End the running jobs, which fail as interrupted. The queue remains for the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            running = list(self._running.values())
        for each in running:
            self._tell(each, b"")
        for each in running:
            if each.thread is not None:
                each.thread.join(_STOP_SECONDS)

    @property
    def environment(self) -> str:
        """See the port."""
        return self._settings.description

    @property
    def problem(self) -> str:
        """See the port."""
        if not self._tried.wait(_TRIAL_SECONDS):
            return "it has not been found out yet whether this machine can run jobs: try again."
        return self._problem

    def submit(self, job: Job) -> JobStatus:
        """See the port."""
        with self._changed:
            if (found := self.status(job.id)) is None:
                self._folder(job.id).save(job)
                self._queue[job.id] = _Waiting(job.project_id)
                self._changed.notify_all()
                found = self.status(job.id)
        assert found is not None
        return found

    def status(self, job_id: str) -> JobStatus | None:
        """See the port."""
        folder = self._folder(job_id)
        with self._changed:
            if waiting := self._queue.get(job_id):
                place = self._line().index(job_id) + 1
                reason = (
                    waiting.reason or self._problem or ("Jobs run before it." if place > 1 or self._running else "")
                )
                return JobStatus(Phase.QUEUED, _modified(folder.path / "job.json"), place=place, reason=reason)
            if (result := folder.result()) is not None:
                return result
            started_at = folder.started_at
            if job_id not in self._running:
                if started_at is None:
                    return None
                # Its end could not be noted, such as on a full disk. It must not run twice.
                return JobStatus(Phase.FAILED, started_at, started_at, code="interrupted", reason=_INTERRUPTED)
            if started_at is None:
                since = _modified(folder.path / "job.json")
                return JobStatus(Phase.QUEUED, since, place=1, reason="Its data files are copied.")
            return JobStatus(Phase.RUNNING, started_at, started_at)

    def cancel(self, job_id: str) -> None:
        """See the port."""
        with self._changed:
            if (running := self._running.get(job_id)) is not None:
                running.cancel = True
                self._tell(running, b"cancel\n")
                return
            self._queue.pop(job_id, None)
            self._folder(job_id).save_result(Phase.CANCELED)
            self._changed.notify_all()

    def remove(self, job_id: str) -> None:
        """See the port."""
        with self._changed:
            running = self._running.get(job_id)
        if running is not None:
            self.cancel(job_id)
            # An observer may call this in the job's own thread, and does again at its end.
            if running.thread is not None and running.thread is not threading.current_thread():
                running.thread.join(_STOP_SECONDS)
        with self._changed:
            self._queue.pop(job_id, None)
            if job_id not in self._running:
                delete_tree(self._folder(job_id).path)

    def log(self, job_id: str, start: int = 0) -> LogPart:
        """See the port."""
        return read_log(self._folder(job_id).log, start)

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """See the port."""
        self._observers.append(observer)

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(self._settings.folder / job_id)

    def _line(self) -> list[str]:
        """The waiting jobs in the order of their start.

        Projects take turns, those first that have not had one for longest, each with its oldest job.
        """
        before: Counter[str] = Counter()
        turns = {}
        for job_id in sorted(self._queue):
            project = self._queue[job_id].project_id
            turns[job_id] = (before[project], self._last_start.get(project, 0.0), job_id)
            before[project] += 1
        return sorted(turns, key=lambda job_id: turns[job_id])

    def _end_interrupted(self, folder: JobFolder) -> None:
        """Note that a job ended with an earlier platform, unless its supervisor did."""
        if folder.result() is not None and not folder.work.exists():
            return
        try:
            with folder.lock(seconds=_STOP_SECONDS):
                folder.save_result(Phase.FAILED, "interrupted", _INTERRUPTED)
                delete_tree(folder.work)
        except TimeoutError as error:
            _log.error("%s", error)

    def _try_sandbox(self) -> str:
        """Run a command that does nothing; returns why this machine cannot, else the empty string."""
        if not sys.platform.startswith("linux"):
            return "jobs on one machine need Linux."
        folder = self._folder(_TRIAL)
        delete_tree(folder.path)
        try:
            folder.save(Job(_TRIAL, "", ":"))
            running = _Running("", 0)
            self._prepare(folder, running)
            self._execute(folder, running)
            result = folder.result()
            if result is None or result.phase is not Phase.SUCCEEDED:
                return (result.reason if result else "") or "the trial was interrupted."
        except _Stopped:
            return "the platform stops."
        except OSError as error:
            return f"{error}."
        finally:
            delete_tree(folder.path)
        return ""

    def _schedule(self) -> None:
        self._problem = self._try_sandbox()
        self._tried.set()
        if self._problem:
            _log.warning("jobs can't run on this machine: %s", self._problem)
            return
        while True:
            with self._changed:
                if self._closed:
                    return
                job_id = self._next()
                if job_id is None:
                    self._changed.wait(_RETRY_SECONDS if self._queue else None)
                    continue
            try:
                reason = self._reserve(job_id)
            except Exception as error:  # no error may stop the thread
                _log.exception("job %s waits", job_id)
                reason = f"The platform could not start it: {type(error).__name__}."
            with self._changed:
                self._start_or_wait(job_id, reason)

    def _next(self) -> str | None:
        """The job whose turn it is; None while no place is free or none may start yet."""
        if len(self._running) >= self._settings.slots:
            return None
        now = time.monotonic()
        return next((job_id for job_id in self._line() if self._queue[job_id].not_before <= now), None)

    def _reserve(self, job_id: str) -> str:
        """Reserve what a job needs; returns why that is not there."""
        settings = self._settings
        if free_bytes(settings.folder) < settings.free_disk_bytes + settings.disk_bytes:
            needed = (settings.free_disk_bytes + settings.disk_bytes) >> 20
            return f"It waits for room on the machine's disk, which needs {needed} MiB free."
        return self._memory.reserve(job_id, settings.memory_bytes)

    def _start_or_wait(self, job_id: str, reason: str) -> None:
        waiting = self._queue.get(job_id)
        if waiting is None or self._closed:  # canceled meanwhile
            self._memory.release(job_id)
        elif reason:
            waiting.reason, waiting.not_before = reason, time.monotonic() + _RETRY_SECONDS
        else:
            del self._queue[job_id]
            used = {each.place for each in self._running.values()}
            place = next(number for number in range(self._settings.slots) if number not in used)
            running = _Running(waiting.project_id, place)
            self._running[job_id] = running
            waiting_projects = {each.project_id for each in self._queue.values()}
            self._last_start = {each: at for each, at in self._last_start.items() if each in waiting_projects}
            self._last_start[waiting.project_id] = time.monotonic()
            running.thread = threading.Thread(target=self._run, args=(job_id, running), name=job_id, daemon=True)
            running.thread.start()

    def _run(self, job_id: str, running: _Running) -> None:
        """Run a job to its end."""
        folder = self._folder(job_id)
        waiting = None
        self._notify(job_id)  # it may have been canceled or deleted while nothing ran jobs here
        try:
            self._prepare(folder, running)
            self._execute(folder, running)
        except _Canceled:
            folder.save_result(Phase.CANCELED)
        except _Stopped:
            pass  # without a mark of its start, it is in the queue of the next process
        except NotFound:
            folder.save_result(Phase.FAILED, "data_file_unavailable", "A data file was deleted before the job began.")
        except PlatformError as error:
            waiting = _Waiting(running.project_id, error.message, time.monotonic() + 10 * _RETRY_SECONDS)
        except Exception as error:  # the job must end in some way
            _log.exception("job %s failed to start", job_id)
            folder.save_result(Phase.FAILED, "start_failed", f"It could not be started: {type(error).__name__}.")
        finally:
            delete_tree(folder.work)
            self._memory.release(job_id)
            with self._changed:
                self._running.pop(job_id, None)
                if waiting is not None and not running.cancel:
                    self._queue[job_id] = waiting
                elif waiting is not None:
                    folder.save_result(Phase.CANCELED)
                self._changed.notify_all()
            self._notify(job_id)
            self._delete_oldest()

    def _prepare(self, folder: JobFolder, running: _Running) -> None:
        """Make the job's work folder with its scripts and data files."""
        self._check_wanted(running)
        job = folder.load()
        delete_tree(folder.work)
        for path in (folder.root, folder.work, folder.work / SCRIPTS, folder.work / DATA, folder.work / TEMPORARY):
            path.mkdir(mode=0o755, exist_ok=True)
        for name, content in job.scripts.items():
            (folder.work / SCRIPTS / name).write_bytes(content)
        for file in job.data_files:
            with (folder.work / DATA / file.name).open("wb") as target:
                for part in self._read_file(job.project_id, file.id):
                    target.write(part)
                    self._check_wanted(running)
        if os.geteuid() == 0:
            user = _FIRST_USER_ID + running.place
            for parent, folders, files in os.walk(folder.work):
                for name in (parent, *(os.path.join(parent, each) for each in (*folders, *files))):
                    os.chown(name, user, user)

    def _execute(self, folder: JobFolder, running: _Running) -> None:
        with self._changed:
            self._check_wanted(running)
            write_file(folder.path / LIMITS, self._limits(running.place))
            folder.mark_started()
            running.process = _start_supervisor(folder)
        if folder.path.name != _TRIAL:
            self._notify(folder.path.name)
        running.process.wait()
        with self._changed:
            self._tell(running, b"")
        folder.save_result(Phase.FAILED, "interrupted", "The process that looked after it ended. Create it again.")

    def _check_wanted(self, running: _Running) -> None:
        if running.cancel:
            raise _Canceled
        if self._closed:
            raise _Stopped

    def _limits(self, place: int) -> str:
        settings = self._settings
        limits = Limits(
            memory_bytes=settings.memory_bytes,
            disk_bytes=settings.disk_bytes,
            free_disk_bytes=settings.free_disk_bytes,
            seconds=settings.seconds,
            path=f"{settings.python.parent}:/usr/local/bin:/usr/bin:/bin",
            threads=max(1, len(os.sched_getaffinity(0)) // settings.slots),
            readable=settings.readable,
            hidden=settings.hidden,
            user_id=_FIRST_USER_ID + place,
        )
        return json.dumps(asdict(limits))

    def _tell(self, running: _Running, line: bytes) -> None:
        """Write a line to the job's supervisor; the empty one closes its input. It may have ended."""
        if running.process is None or running.process.stdin is None or running.process.stdin.closed:
            return
        try:
            if line:
                running.process.stdin.write(line)
                running.process.stdin.flush()
            else:
                running.process.stdin.close()
        except OSError:
            return

    def _notify(self, job_id: str) -> None:
        for observer in self._observers:
            try:
                observer(job_id)
            except Exception:  # the job continues; a later look at its status finds the same
                _log.exception("the change of job %s was not recorded", job_id)

    def _delete_oldest(self) -> None:
        """Delete what is kept of the jobs that ended first, beyond a number."""
        ended = [path for path in self._settings.folder.iterdir() if (path / "result.json").exists()]
        for path in sorted(ended, key=lambda each: _modified(each / "result.json"))[:-_KEPT_RESULTS]:
            delete_tree(path)


def _start_supervisor(folder: JobFolder) -> subprocess.Popen[bytes]:
    with (folder.path / "supervisor.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", Limits.__module__],
            cwd=folder.path,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            start_new_session=True,
        )


class _Canceled(Exception):
    """The job was canceled before it began."""


class _Stopped(Exception):
    """The platform stopped before the job began."""


def readable_folders(python: Path) -> tuple[str, ...]:
    """The folders that an interpreter needs: its virtual environment, and programs and libraries of the one it is made of.

    Not all of the latter's prefix: that may be somebody's home folder.
    """
    prefix = python.resolve().parent.parent
    return str(python.absolute().parent.parent), *(str(prefix / name) for name in ("bin", "lib", "lib64"))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
