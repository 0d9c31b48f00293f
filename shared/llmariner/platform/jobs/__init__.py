"""The jobs port: runs commands in the background, one after another as there is room, and says what became of them.

Adapters: `local_processes` (child processes of one machine), `kubernetes` (Jobs of a cluster). A job is identified by its
id; each call is idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

__all__ = [
    "FETCHED_WEIGHTS",
    "MAX_RESULT_FILES",
    "MAX_RESULT_NAME",
    "READABLE_WEIGHTS",
    "WEIGHTS_FOLDER",
    "DataFile",
    "ExecOutput",
    "Execution",
    "Job",
    "JobStatus",
    "Jobs",
    "LogPart",
    "Network",
    "Phase",
    "ResultFile",
    "Results",
]

MAX_RESULT_FILES = 100
MAX_RESULT_NAME = 255
"""Characters of the name of a result file, with its folders."""
FETCHED_WEIGHTS = ("model-copy://", "s3://")
"""The storage URIs of `weights` that a program of the platform fetches in the pod, by `weights_command`."""
READABLE_WEIGHTS = ("hf://", "pvc://", *FETCHED_WEIGHTS)
"""The storage URIs of `weights` that jobs of a cluster read."""
WEIGHTS_FOLDER = "/mnt/models"
"""Where a job of a cluster finds its `weights`, as engines do."""


class Phase(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELED)


class Network(StrEnum):
    """What a job on one machine may reach."""

    MACHINE = "machine"
    """All that the machine reaches, services on its loopback addresses included."""
    INTERNET = "internet"
    """Port 443 of public addresses, through a proxy, and itself."""
    NONE = "none"
    """Itself alone."""


@dataclass(frozen=True)
class DataFile:
    """A file of the project that the job finds as `data/<name>`."""

    id: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Job:
    """A job to run. `command` is a shell's; `scripts` become files of `scripts/`.

    Names of `scripts`, `data_files` and `environment` are file names and names of variables: the caller has checked them.
    `readable_folders`: absolute paths of folders that it may read besides, at the same paths; never words of a tenant.
    `backoff_limit`: how often the command is started again after it failed or was interrupted, as of Kubernetes' Jobs. It
    begins from its start then, in a new folder. Not started again is what could not be started, or ran to its deadline.
    `brief`: a step of the platform's own that takes a minute or so and little memory, for which nobody should wait for
    hours: it has a line of its own.
    `image`: the name of an image of the installation, empty for a program of the platform's own, which needs PyTorch,
    Transformers and PEFT; `gpu_count`: of each of `worker_count` workers, which begin together.
    On one machine it runs without image and GPU, and its workers are processes that share its limits; it has one if
    `starts_workers`: then its command starts the others there. `network`: what it may reach, which holds
    on one machine. `organization_id`: the project's; on a cluster its quota holds for the job, too.
    `weights`: the storage URI of a model, on a cluster; `weights_bytes`: their size, 0 if it is unknown.
    `weights_command`: as `command`, what brings weights at `FETCHED_WEIGHTS` to the folder of its first argument.
    """

    id: str
    project_id: str
    command: str
    environment: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, bytes] = field(default_factory=dict)
    data_files: tuple[DataFile, ...] = ()
    readable_folders: tuple[str, ...] = ()
    backoff_limit: int = 0
    brief: bool = False
    image: str = ""
    gpu_count: int = 0
    worker_count: int = 1
    starts_workers: bool = False
    network: Network = Network.MACHINE
    organization_id: str = ""
    weights: str = ""
    weights_bytes: int = 0
    weights_command: str = ""


@dataclass(frozen=True)
class JobStatus:
    """What a job does. `since`: when it entered the phase, in Unix seconds; `started_at`: when its command began last.

    `started_at` is None before it ran, and while it waits to be started again. `restarts`: how often it was started again
    after a failure, or is about to be. While it is queued, `place` is its place in line from 1, and `reason` why it waits.
    Where it failed, or waits to be started again, `code` names the cause for programs and `reason` says it.
    """

    phase: Phase
    since: float
    started_at: float | None = None
    place: int | None = None
    code: str = ""
    reason: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class LogPart:
    """Output of a job from byte `start` of all its output on; `end` is where the next part begins.

    `start` is later than was asked for where earlier output is not kept any more.
    """

    data: bytes
    start: int
    end: int


@dataclass(frozen=True)
class ResultFile:
    """A file that a job left in its folder `output`. `name`: below that folder, with slashes, printable."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Results:
    """The first `MAX_RESULT_FILES` files that a job left. `left_out`: what is not among them and why, for users."""

    files: tuple[ResultFile, ...] = ()
    left_out: str = ""


@dataclass(frozen=True)
class ExecOutput:
    """Output of a command in a job. `stream`: `stdout` or `stderr`. Without data where there was none in time."""

    stream: str
    data: bytes


class Execution(Protocol):
    """A command that was started in a running job. One thread uses it at a time, and closes it."""

    def read(self, seconds: float) -> ExecOutput | None:
        """The next output, waiting so long for it; None once it has ended and all was read."""

    @property
    def exit_code(self) -> int | None:
        """After its end: the exit code, 128 and the signal where one ended it; None where the job ended before it."""

    def close(self) -> None:
        """End it, if it runs. Idempotent."""


class Jobs(Protocol):
    """Runs jobs. All methods block briefly and are safe in any thread."""

    @property
    def environment(self) -> str:
        """Where commands run, in words for users."""

    @property
    def problem(self) -> str:
        """Why no job can run here, for users; empty where they can."""

    def submit(self, job: Job) -> JobStatus:
        """Queue a job; the status of a job of that id that was submitted or canceled before."""

    def status(self, job_id: str) -> JobStatus | None:
        """The status; None for an id that was never submitted, or was removed."""

    def cancel(self, job_id: str) -> None:
        """End a job, or keep a job of that id from ever starting. It ends soon afterwards, with every process it began.

        No effect on one that has ended.
        """

    def pause(self, job_id: str) -> None:
        """Keep a queued job from starting, or end the processes of a running one, soon, which is no failure of it.

        No effect on a running one whose `backoff_limit` is 0, and on one that has ended or was never submitted.
        """

    def resume(self, job_id: str) -> None:
        """Queue a paused job again: its command begins from its start, in a new folder. No effect on another one."""

    def exec(self, job_id: str, argv: Sequence[str], stdin: bytes = b"") -> Execution:
        """Start a program beside the command of a running job: same files, processes, user, variables and limits.

        It begins in the job's folder, and ends with the job. On a cluster it is beside that of the first worker. Raises
        Conflict where the job does not run; RateLimited where too many programs run in it already.
        """

    def remove(self, job_id: str) -> None:
        """End a job and delete what it left, its log too."""

    def log(self, job_id: str, start: int = 0) -> LogPart:
        """Some output from byte `start` on: standard output and error, mixed. Empty where there is none yet.

        On a cluster it is that of the first worker's last pod.
        """

    def results(self, job_id: str) -> Results:
        """What a job that ended, and was not canceled, left in its folder `output`; until `delete_results`."""

    def read_result(self, job_id: str, name: str) -> Iterator[bytes]:
        """The bytes of one of its `results`. Raises OSError where it is gone."""

    def delete_results(self, job_id: str) -> None:
        """Delete its `results`. Idempotent."""

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """Call `observer` with the id of each job that is about to start, started, or ended, in a thread of the adapter.

        One that cancels or removes the job before it starts keeps it from that. On a cluster it is not called: events of the
        API server come in its place.
        """
