"""The folder of a job: what it is to run, whether it began, what became of it, its output. Readable by the platform only.

A job was submitted where `job.json` is, has begun where `started` is, is paused where `paused` is, and has ended where
`result.json` is. `restarts.json` says how often it was started again.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmariner.platform.jobs import DataFile, Job, JobStatus, Network, Phase

__all__ = ["CREATE_AGAIN", "DATA", "LIMITS", "OUTPUT", "TEMPORARY", "JobFolder", "Restarts", "write_file"]

SCRIPTS, DATA, TEMPORARY, OUTPUT = "scripts", "data", "tmp", "output"
LIMITS = "limits.json"
CREATE_AGAIN = " Create it again."
_RESTARTED = ("exit_code", "killed", "out_of_memory", "disk_limit_exceeded", "evicted", "interrupted")
"""Causes of a failure after which a job is started again, if it may be."""


@dataclass(frozen=True)
class Restarts:
    """How often a job was started again, and the cause of the last time."""

    count: int = 0
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def work(self) -> Path:
        """The only folder that the job may write."""
        return self.path / "work"

    @property
    def root(self) -> Path:
        """An empty folder for the sandbox."""
        return self.path / "root"

    @property
    def results(self) -> Path:
        """The folder of the files that it left."""
        return self.path / "results"

    @property
    def log(self) -> Path:
        """The folder of its output."""
        return self.path / "log"

    def save(self, job: Job) -> None:
        """Make the folder of a submitted job."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        scripts = {name: base64.b64encode(content).decode() for name, content in job.scripts.items()}
        files = [[each.id, each.name, each.size_bytes] for each in job.data_files]
        document = {
            "id": job.id,
            "project_id": job.project_id,
            "command": job.command,
            "environment": dict(job.environment),
            "scripts": scripts,
            "data_files": files,
            "readable_folders": list(job.readable_folders),
            "backoff_limit": job.backoff_limit,
            "brief": job.brief,
            "network": job.network,
            "worker_count": 1 if job.starts_workers else job.worker_count,
        }
        write_file(self.path / "job.json", json.dumps(document))

    def load(self) -> Job:
        """The job. Raises OSError or ValueError where there is none."""
        document = json.loads((self.path / "job.json").read_text())
        return Job(
            id=document["id"],
            project_id=document["project_id"],
            command=document["command"],
            environment=document["environment"],
            scripts={name: base64.b64decode(content) for name, content in document["scripts"].items()},
            data_files=tuple(DataFile(*each) for each in document["data_files"]),
            readable_folders=tuple(document.get("readable_folders", ())),  # absent in what the release before wrote
            backoff_limit=document.get("backoff_limit", 0),
            brief=document.get("brief", False),
            network=_network(document.get("network", True)),
            worker_count=document.get("worker_count", 1),
        )

    @property
    def is_submitted(self) -> bool:
        """Whether there is a job to run."""
        return (self.path / "job.json").exists()

    def make_work(self, job: Job) -> None:
        """Make the folders that the job sees, with its scripts."""
        for path in (self.root, self.work, *(self.work / each for each in (SCRIPTS, DATA, TEMPORARY, OUTPUT))):
            path.mkdir(mode=0o755, exist_ok=True)
        for name, content in job.scripts.items():
            (self.work / SCRIPTS / name).write_bytes(content)

    def mark_started(self) -> None:
        """Note that the job begins: from now on it is not started again, unless it may be after a failure."""
        write_file(self.path / "started", f"{time.time()}")

    @property
    def started_at(self) -> float | None:
        """When the job began."""
        with contextlib.suppress(OSError, ValueError):
            return float((self.path / "started").read_text())
        return None

    @property
    def paused_at(self) -> float | None:
        """Since when the job is to be paused."""
        with contextlib.suppress(OSError):
            return (self.path / "paused").stat().st_mtime
        return None

    def mark_paused(self) -> None:
        """Note that the job is not to run before `clear_pause`."""
        if self.paused_at is None:
            write_file(self.path / "paused", "")

    def clear_pause(self) -> None:
        """Undo `mark_paused`."""
        (self.path / "paused").unlink(missing_ok=True)

    def restarts(self) -> Restarts:
        """How often the job was started again."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Restarts(**json.loads((self.path / "restarts.json").read_text()))
        return Restarts()

    def end_attempt(self, phase: Phase, code: str = "", reason: str = "") -> None:
        """Note how the job ended that began, or that it waits again: paused, or to be started again after a failure."""
        if self.result() is not None:
            return
        if code == "interrupted" and self.paused_at is not None:
            phase = Phase.PAUSED
        before = self.restarts().count
        again = phase is Phase.FAILED and code in _RESTARTED and before < self.load().backoff_limit
        if again:
            write_file(
                self.path / "restarts.json",
                json.dumps(asdict(Restarts(before + 1, code, reason.removesuffix(CREATE_AGAIN)))),
            )
        if again or phase is Phase.PAUSED:
            (self.path / "started").unlink(missing_ok=True)
        else:
            self.save_result(phase, code, reason)

    @contextlib.contextmanager
    def lock(self, *, seconds: float) -> Iterator[None]:
        """Hold the lock that the process which runs the job holds. Raises TimeoutError where another one has it so long."""
        deadline = time.monotonic() + seconds
        with (self.path / "lock").open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"another process runs the job in {self.path}") from error
                    time.sleep(0.05)
                else:
                    break
            yield

    def save_result(self, phase: Phase, code: str = "", reason: str = "") -> None:
        """Note how the job ended, unless that is noted already."""
        if self.result() is None:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            document = {"phase": phase.value, "at": time.time(), "code": code, "reason": reason}
            write_file(self.path / "result.json", json.dumps(document))

    def result(self) -> JobStatus | None:
        """How the job ended; None before."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads((self.path / "result.json").read_text())
            started_at = self.started_at
            # The clock may be set back while a job runs; a job does not end before it begins.
            since = max(found["at"], started_at or 0.0)
            phase, restarts = Phase(found["phase"]), self.restarts().count
            return JobStatus(phase, since, started_at, code=found["code"], reason=found["reason"], restarts=restarts)
        return None


def _network(value: str | bool) -> Network:
    """What a job may reach. A boolean is what the release before wrote."""
    if isinstance(value, bool):
        return Network.MACHINE if value else Network.NONE
    return Network(value)


def write_file(path: Path, text: str) -> None:
    """Write a private file so that it is there whole or not at all, also after a crash of the machine."""
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
