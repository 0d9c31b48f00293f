"""The jobs port's adapters: every test that asks for `jobs` runs on each of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from llmariner.errors import NotFound
from llmariner.platform.jobs import Jobs, JobStatus, LogPart, Phase
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.settings import ProcessJobSettings, readable_folders

from .cluster_jobs import jobs_on_cluster

MIB = 1024 * 1024
FILES = {"file-1": b"pumps\n", "file-2": b"x" * 3 * MIB}


class Memory:
    """A budget that is full while `reason` says so."""

    def __init__(self) -> None:
        self.reason = ""
        self.reserved: dict[str, int] = {}

    def refusal(self, size_bytes: int) -> str:
        return ""

    def reserve(self, owner: str, project_id: str, size_bytes: int) -> str:
        if not self.reason:
            self.reserved[owner] = size_bytes
        return self.reason

    def release(self, owner: str) -> None:
        self.reserved.pop(owner, None)


def read_file(project_id: str, file_id: str) -> Iterator[bytes]:
    """The bytes of a file of FILES, which the project `proj_1` has."""
    if project_id != "proj_1" or file_id not in FILES:
        raise NotFound(f"No such file: {file_id}.")
    yield FILES[file_id]


def process_jobs(folder: Path, memory: Memory, *, slots: int = 1, seconds: float = 60.0, cores: int = 0) -> ProcessJobs:
    """An adapter that is not started."""
    settings = ProcessJobSettings(
        folder=folder,
        python=Path(sys.executable),
        description="here",
        memory_bytes=200 * MIB,
        disk_bytes=24 * MIB,
        free_disk_bytes=MIB,
        seconds=seconds,
        readable=readable_folders(Path(sys.executable)),
        hidden=("/usr/share",),
        slots=slots,
        backoff_seconds=0.1,
        cores=cores,
    )
    return ProcessJobs(settings, read_file, memory)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def processes(tmp_path: Path, memory: Memory) -> Iterator[ProcessJobs]:
    """Jobs as processes, two at a time."""
    made = process_jobs(tmp_path / "jobs", memory, slots=2)
    made.start()
    try:
        if made.problem:
            pytest.skip(made.problem)
        yield made
    finally:
        made.close()


@pytest.fixture
def on_cluster() -> Iterator[Jobs]:
    """Jobs as pods of the test cluster."""
    with jobs_on_cluster(FILES) as made:
        yield made


@pytest.fixture(params=["processes", pytest.param("on_cluster", marks=pytest.mark.cluster)])
def jobs(request: pytest.FixtureRequest) -> Jobs:
    found: Jobs = request.getfixturevalue(request.param)
    return found


def wait_for_end(jobs: Jobs, job_id: str, *, seconds: float = 60.0) -> JobStatus:
    """The status of a job that has ended."""
    deadline = time.monotonic() + seconds
    while True:
        status = jobs.status(job_id)
        if status is not None and status.phase.is_final:
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def wait_for_phase(jobs: Jobs, job_id: str, phase: Phase, *, seconds: float = 60.0) -> JobStatus:
    """The status of a job in a phase."""
    deadline = time.monotonic() + seconds
    while (status := jobs.status(job_id)) is None or status.phase is not phase:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


class Done(NamedTuple):
    """What became of a program in a job."""

    stdout: str
    stderr: str
    exit_code: int | None


def run(jobs: Jobs, job_id: str, argv: Sequence[str], stdin: bytes = b"", *, seconds: float = 60.0) -> Done:
    """Run a program in a running job to its end."""
    found = {"stdout": b"", "stderr": b""}
    deadline = time.monotonic() + seconds
    with contextlib.closing(jobs.exec(job_id, argv, stdin)) as execution:
        while (part := execution.read(1.0)) is not None:
            found[part.stream] += part.data
            assert time.monotonic() < deadline, found
        return Done(found["stdout"].decode(), found["stderr"].decode(), execution.exit_code)


def wait_for_output(jobs: Jobs, job_id: str, text: str, *, seconds: float = 60.0) -> None:
    """Wait until a job has written a text."""
    deadline = time.monotonic() + seconds
    while text not in output(jobs, job_id):
        assert time.monotonic() < deadline, output(jobs, job_id)
        time.sleep(0.05)


def output(jobs: Jobs, job_id: str) -> str:
    """All that is kept of a job's output."""
    found, part = b"", LogPart(b"", 0, 0)
    while (part := jobs.log(job_id, part.end)).data:
        found += part.data
    return found.decode()
