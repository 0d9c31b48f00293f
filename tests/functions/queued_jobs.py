"""A jobs port that runs nothing: jobs stay queued until they are canceled or removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llmariner.errors import Conflict
from llmariner.platform.jobs import ExecOutput, Execution, Job, JobStatus, LogPart, Phase, Results

__all__ = ["QueuedJobs"]


class EchoExecution:
    """A program that writes its arguments to its standard output, and its input to the other; see `Execution`."""

    def __init__(self, argv: Sequence[str], stdin: bytes) -> None:
        self._output = [ExecOutput("stdout", " ".join(argv).encode()), ExecOutput("stderr", stdin)]
        self.exit_code: int | None = None

    def read(self, seconds: float) -> ExecOutput | None:
        if not self._output:
            self.exit_code = 3
            return None
        return self._output.pop(0)

    def close(self) -> None:
        self._output = []


class QueuedJobs:
    """See `platform.jobs.Jobs`. `problem` may be set; `logs` has the output by id. Programs start in all but `stopped`."""

    def __init__(self) -> None:
        self.problem = ""
        self.submitted: dict[str, Job] = {}
        self.canceled: set[str] = set()
        self.paused: set[str] = set()
        self.stopped: set[str] = set()
        self.logs: dict[str, bytes] = {}

    @property
    def environment(self) -> str:
        return "Nowhere."

    def submit(self, job: Job) -> JobStatus:
        self.submitted[job.id] = job
        status = self.status(job.id)
        assert status is not None
        return status

    def status(self, job_id: str) -> JobStatus | None:
        if job_id in self.canceled:
            return JobStatus(Phase.CANCELED, 2.0)
        if job_id not in self.submitted:
            return None
        if job_id in self.paused:
            return JobStatus(Phase.PAUSED, 2.0)
        return JobStatus(Phase.QUEUED, 1.0, place=list(self.submitted).index(job_id) + 1, reason="Nothing runs.")

    def cancel(self, job_id: str) -> None:
        self.canceled.add(job_id)

    def pause(self, job_id: str) -> None:
        self.paused.add(job_id)

    def resume(self, job_id: str) -> None:
        self.paused.discard(job_id)

    def exec(self, job_id: str, argv: Sequence[str], stdin: bytes = b"") -> Execution:
        if job_id in self.stopped:
            raise Conflict(f"The job '{job_id}' does not run.", code="job_not_running")
        return EchoExecution(argv, stdin)

    def remove(self, job_id: str) -> None:
        self.submitted.pop(job_id, None)
        self.canceled.discard(job_id)

    def log(self, job_id: str, start: int = 0) -> LogPart:
        data = self.logs.get(job_id, b"")[start : start + 4]
        return LogPart(data, start, start + len(data))

    def results(self, job_id: str) -> Results:
        return Results()

    def read_result(self, job_id: str, name: str) -> Iterator[bytes]:
        raise FileNotFoundError(name)

    def delete_results(self, job_id: str) -> None:
        """There are none."""

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """Nothing changes by itself."""
