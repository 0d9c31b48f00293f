"""Jobs adapter for one machine: a supervised child process per job, a few at a time, within the memory that engines leave.

The folders of jobs are the truth: a queue survives a restart. A job that ran when the platform stopped has failed as
`interrupted`, or is started again where its author allowed that with `backoff_limit`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmariner.errors import NotFound, PlatformError
from llmariner.platform.jobs import Execution, Job, JobStatus, LogPart, Phase, Results
from llmariner.platform.jobs.local_processes.control_group import remove_control_group
from llmariner.platform.jobs.local_processes.disk_usage import delete_tree, free_bytes
from llmariner.platform.jobs.local_processes.execution import ProcessExecution
from llmariner.platform.jobs.local_processes.job_folder import CREATE_AGAIN, JobFolder
from llmariner.platform.jobs.local_processes.job_run import Canceled, JobRun, JobRunner, Paused, Stopped
from llmariner.platform.jobs.local_processes.output_log import read_log
from llmariner.platform.jobs.local_processes.queue import JobQueue, Waiting, waiting_after
from llmariner.platform.jobs.local_processes.result_folder import list_results, read_result
from llmariner.platform.jobs.local_processes.sandbox_trial import TRIAL, try_control_group, try_sandbox
from llmariner.platform.jobs.local_processes.settings import MemoryBudget, ProcessJobSettings
from llmariner.platform.jobs.program_errors import MAX_EXECUTIONS, not_running, too_many_programs
from llmariner.platform.process_times import ProcessTimes

__all__ = ["ProcessJobs"]

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 20.0
"""Programs that run in a job at a time, besides its command."""
_KEPT_RESULTS = 500
"""Ended jobs whose results and logs are kept: with 8 MiB of log each, 4 GB at most."""
_TRIAL_SECONDS = 10.0
_TOGETHER = (
    "The kernel counts its processes together, in a control group of its own, and ends them where they need more."
)
_ONE_BY_ONE = "Its processes are measured twice a second, and it is ended where they use more."
_INTERRUPTED = f"The platform stopped while it ran.{CREATE_AGAIN}"


class ProcessJobs:
    """See the module. `read_file` gives the bytes of a project's file: (project id, file id).

    `times` gets the processor time of jobs.
    """

    def __init__(
        self,
        settings: ProcessJobSettings,
        read_file: Callable[[str, str], Iterator[bytes]],
        memory: MemoryBudget,
        times: ProcessTimes | None = None,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._changed = threading.Condition(threading.RLock())
        self._runner = JobRunner(settings, read_file, self._changed, is_closed=lambda: self._closed, times=times)
        self._queue = JobQueue()
        self.waiting_by_project = self._queue.by_project
        self._running: dict[str, JobRun] = {}
        self._observers: list[Callable[[str], None]] = []
        self._closed = False
        self._problem = ""
        self._counted = _ONE_BY_ONE
        self._tried = threading.Event()
        self._scheduler = threading.Thread(target=self._schedule, name="jobs", daemon=True)

    def start(self) -> None:
        """Queue what an earlier process left in the queue, note what it left running as ended, and begin to run jobs."""
        self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._settings.folder.iterdir()):
            folder = JobFolder(path)
            if path.name == TRIAL:
                continue
            if folder.result() is None and not folder.is_submitted:  # killed while it was submitted or deleted
                delete_tree(path)
                continue
            if folder.started_at is not None:
                self._end_interrupted(folder)
            if folder.started_at is None and folder.result() is None and folder.paused_at is None:
                try:
                    job = folder.load()
                except (OSError, ValueError, KeyError, TypeError):
                    delete_tree(path)
                    continue
                since = time.time() if folder.restarts().count else _modified(path / "job.json")
                self._queue.add(job.id, Waiting(job.project_id, since, brief=job.brief))
        self._scheduler.start()

    def close(self) -> None:
        """End the running jobs, which fail as interrupted. The queue remains for the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            running = list(self._running.values())
        for each in running:
            each.tell(b"")
        for each in running:
            if each.thread is not None:
                each.thread.join(_STOP_SECONDS)

    @property
    def environment(self) -> str:
        """See the port."""
        return f"{self._settings.description} {self._counted}"

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
                self._queue.add(job.id, Waiting(job.project_id, brief=job.brief))
                self._changed.notify_all()
                found = self.status(job.id)
        assert found is not None
        return found

    def status(self, job_id: str) -> JobStatus | None:
        """See the port."""
        folder = self._folder(job_id)
        with self._changed:
            if (waiting := self._queue.get(job_id)) is not None:
                return self._waiting_status(folder, job_id, waiting)
            if (result := folder.result()) is not None:
                return result
            started_at, restarts = folder.started_at, folder.restarts()
            if job_id in self._running and started_at is not None:
                return JobStatus(Phase.RUNNING, started_at, started_at, restarts=restarts.count)
            if started_at is not None:
                # Its end could not be noted, such as on a full disk. It must not run twice.
                return JobStatus(Phase.FAILED, started_at, started_at, code="interrupted", reason=_INTERRUPTED)
            if folder.is_submitted and (paused_at := folder.paused_at) is not None:
                return JobStatus(Phase.PAUSED, paused_at, restarts=restarts.count)
            if job_id not in self._running:
                return None
            since = _modified(folder.path / "job.json")
            reason = "Its data files are copied."
            return JobStatus(Phase.QUEUED, since, place=1, code=restarts.code, reason=reason, restarts=restarts.count)

    def cancel(self, job_id: str) -> None:
        """See the port."""
        with self._changed:
            if (running := self._running.get(job_id)) is not None:
                running.cancel = True
                running.tell(b"cancel\n")
                return
            self._queue.remove(job_id)
            self._folder(job_id).save_result(Phase.CANCELED)
            self._changed.notify_all()

    def pause(self, job_id: str) -> None:
        """See the port."""
        folder = self._folder(job_id)
        with self._changed:
            if not folder.is_submitted or folder.result() is not None:
                return
            running = self._running.get(job_id)
            if running is not None and folder.started_at is not None and not folder.load().backoff_limit:
                return
            folder.mark_paused()
            self._queue.remove(job_id)
            if running is not None:
                running.pause = True
                running.tell(b"pause\n")
            self._changed.notify_all()

    def resume(self, job_id: str) -> None:
        """See the port."""
        folder = self._folder(job_id)
        with self._changed:
            if folder.paused_at is None or folder.result() is not None:
                return
            folder.clear_pause()
            # One that has not ended yet is queued by its thread.
            if job_id not in self._running and folder.started_at is None:
                job = folder.load()
                self._queue.add(job_id, Waiting(job.project_id, brief=job.brief))
                self._changed.notify_all()

    def exec(self, job_id: str, argv: Sequence[str], stdin: bytes = b"") -> Execution:
        """See the port."""
        with self._changed:
            running = self._running.get(job_id)
            if running is None or running.control is None or self._folder(job_id).started_at is None:
                raise not_running(job_id)
            if running.executions >= MAX_EXECUTIONS:
                raise too_many_programs(job_id)

            def on_close() -> None:
                with self._changed:
                    running.executions -= 1

            try:
                execution = ProcessExecution(running.control, argv, stdin, on_close)
            except OSError as error:
                raise not_running(job_id) from error
            running.executions += 1
            return execution

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
            self._queue.remove(job_id)
            if job_id not in self._running:
                delete_tree(self._folder(job_id).path)

    def log(self, job_id: str, start: int = 0) -> LogPart:
        """See the port."""
        return read_log(self._folder(job_id).log, start)

    def results(self, job_id: str) -> Results:
        """See the port."""
        folder = self._folder(job_id)
        found = list_results(folder.results, max_bytes=self._settings.disk_bytes)
        return found if folder.result() is not None else Results()

    def read_result(self, job_id: str, name: str) -> Iterator[bytes]:
        """See the port."""
        return read_result(self._folder(job_id).results, name)

    def delete_results(self, job_id: str) -> None:
        """See the port."""
        delete_tree(self._folder(job_id).results)

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """See the port."""
        self._observers.append(observer)

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(self._settings.folder / job_id)

    def _waiting_status(self, folder: JobFolder, job_id: str, waiting: Waiting) -> JobStatus:
        restarts = folder.restarts()
        place = self._queue.line(brief=waiting.brief).index(job_id) + 1
        reason = waiting.reason or self._problem
        if not reason and (place > 1 or self._used_places(brief=waiting.brief)):
            reason = "Jobs run before it."
        return JobStatus(
            Phase.QUEUED, waiting.since, place=place, code=restarts.code, reason=reason, restarts=restarts.count
        )

    def _end_interrupted(self, folder: JobFolder) -> None:
        """Note that a job ended with an earlier platform, unless its supervisor did."""
        if folder.result() is not None and not folder.work.exists():
            return
        try:
            with folder.lock(seconds=_STOP_SECONDS):
                remove_control_group(folder)
                folder.end_attempt(Phase.FAILED, "interrupted", _INTERRUPTED)
                delete_tree(folder.work)
        except (
            Exception
        ):  # it must not keep the platform from starting; its status is that of one whose end is not noted
            _log.exception("the end of job %s was not noted", folder.path.name)

    def _schedule(self) -> None:
        self._problem = try_sandbox(self._runner, self._folder(TRIAL), self._settings.network)
        if not self._problem and try_control_group(self._folder(TRIAL)):
            self._counted = _TOGETHER
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
                is_wanted = self._start_or_wait(job_id, reason)
            if not is_wanted:
                self._release(job_id)

    def _next(self) -> str | None:
        """The job whose turn it is; None while no place is free or none may start yet."""
        for brief in (True, False):
            has_free_slot = len(self._used_places(brief=brief)) < len(self._settings.places(brief=brief))
            if has_free_slot and (job_id := self._queue.first(brief=brief)) is not None:
                return job_id
        return None

    def _used_places(self, *, brief: bool) -> set[int]:
        return {each.place for each in self._running.values() if each.brief is brief}

    def _reserve(self, job_id: str) -> str:
        """Reserve what a job needs; returns why that is not there."""
        settings = self._settings
        if free_bytes(settings.folder) < settings.free_disk_bytes + settings.disk_bytes:
            needed = (settings.free_disk_bytes + settings.disk_bytes) >> 20
            return f"It waits for room on the machine's disk, which needs {needed} MiB free."
        waiting = self._queue.get(job_id) or Waiting("")  # canceled meanwhile
        return self._memory.reserve(job_id, waiting.project_id, settings.memory_of(brief=waiting.brief))

    def _start_or_wait(self, job_id: str, reason: str) -> bool:
        """Start a job, or let it wait for a reason; returns False for one that was canceled or paused meanwhile."""
        waiting = self._queue.get(job_id)
        if waiting is None or self._closed:
            return False
        if reason:
            self._queue.hold_back(job_id, reason, seconds=_RETRY_SECONDS)
        else:
            self._queue.note_start(job_id)
            used = self._used_places(brief=waiting.brief)
            place = next(each for each in self._settings.places(brief=waiting.brief) if each not in used)
            running = JobRun(waiting.project_id, place, waiting.brief)
            self._running[job_id] = running
            running.thread = threading.Thread(target=self._run, args=(job_id, running), name=job_id, daemon=True)
            running.thread.start()
        return True

    def _release(self, job_id: str) -> None:
        """Delete what a job wrote and give its memory back. A failure is logged: it must not hold up other jobs."""
        try:
            delete_tree(self._folder(job_id).work)
        except OSError:
            _log.exception("the files of job %s were not deleted", job_id)
        try:
            self._memory.release(job_id)
        except Exception:
            _log.exception("the memory of job %s was not given back", job_id)

    def _run(self, job_id: str, running: JobRun) -> None:
        """Run a job to its end, or until it waits again."""
        folder = self._folder(job_id)
        waiting = None
        self._notify(job_id)  # it may have been canceled or deleted while nothing ran jobs here
        try:
            self._runner.prepare(folder, running)
            self._runner.execute(folder, running, lambda: self._notify(job_id))
            waiting = self._waiting_again(folder, running)
        except Canceled:
            folder.save_result(Phase.CANCELED)
        except Paused:
            waiting = Waiting(running.project_id)
        except Stopped:
            pass  # without a mark of its start, it is in the queue of the next process
        except NotFound:
            folder.save_result(Phase.FAILED, "data_file_unavailable", "A data file was deleted before the job began.")
        except PlatformError as error:
            waiting = Waiting(
                running.project_id, reason=error.message, not_before=time.monotonic() + 10 * _RETRY_SECONDS
            )
        except Exception as error:  # the job must end in some way
            _log.exception("job %s failed to start", job_id)
            folder.save_result(Phase.FAILED, "start_failed", f"It could not be started: {type(error).__name__}.")
        finally:
            self._release(job_id)
            with self._changed:
                self._running.pop(job_id, None)
                if waiting is not None and running.cancel:
                    folder.save_result(Phase.CANCELED)
                elif waiting is not None and folder.paused_at is None:
                    waiting.brief = running.brief
                    self._queue.add(job_id, waiting)
                self._changed.notify_all()
            self._notify(job_id)
            self._delete_oldest()

    def _waiting_again(self, folder: JobFolder, running: JobRun) -> Waiting | None:
        """The place in the queue of a job that has run and is to be started again; None for one that has ended."""
        if folder.result() is not None or folder.started_at is not None:
            return None
        restarts = folder.restarts()
        if running.pause or not restarts.count:
            return Waiting(running.project_id)
        return waiting_after(restarts, running.project_id, backoff_seconds=self._settings.backoff_seconds)

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


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
