"""An installation on one machine, whose jobs are processes that really run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.boot import load
from llmariner.context import Context
from llmariner.platform.jobs import Phase
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.settings import ProcessJobSettings, readable_folders

from .installation import FUNCTION, Installation, Replica, free_port, start

__all__ = ["BASE", "COMMAND", "Machine", "follow", "has_output", "process_jobs", "scenario", "status_of"]

BASE = "/v1/sessions/cluster-local"
COMMAND = "echo first; echo second; sleep 600"


@dataclass
class Machine:
    """An installation on one machine."""

    installation: Installation
    context: Context
    jobs: ProcessJobs

    @property
    def pods(self) -> str:
        """The path of the pods of the project."""
        return f"{BASE}/api/v1/namespaces/{self.installation.owner.project_id}/pods"

    def run_job(self, command: str = COMMAND) -> str:
        """The id of a job that has written what it writes at first."""
        new = NewBatchJob(image="pytorch-2.1", command=command, scripts={"a.py": b"pass"})
        job_id = self.context.batch_jobs.create(self.installation.caller, new).id
        self.context.batch_job_reconciler.reconcile(job_id)
        return job_id


class Memory:
    """A budget that always has room."""

    def refusal(self, size_bytes: int) -> str:
        return ""

    def reserve(self, owner: str, project_id: str, size_bytes: int) -> str:
        return ""

    def release(self, owner: str) -> None:
        """Nothing is counted."""


def process_jobs(context: Context, folder: Path) -> ProcessJobs:
    """Nine jobs at a time."""
    settings = ProcessJobSettings(
        folder=folder,
        python=Path(sys.executable),
        description="here",
        memory_bytes=200 << 20,
        disk_bytes=24 << 20,
        free_disk_bytes=1 << 20,
        seconds=600.0,
        readable=readable_folders(Path(sys.executable)),
        slots=9,
    )
    return ProcessJobs(settings, lambda project, file: context.files.read(context.files.get(project, file)), Memory())


@asynccontextmanager
async def serving(machine: Machine) -> AsyncIterator[Replica]:
    application = load(FUNCTION)
    application.use_context(machine.context)
    replica = await start(application.prepare(), free_port())
    try:
        yield replica
    finally:
        await replica.stop()


def scenario(machine: Machine, steps: Callable[[Replica], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(machine) as replica:
            await steps(replica)

    asyncio.run(asyncio.wait_for(whole(), 120))


def has_output(machine: Machine, job_id: str) -> Callable[[], bool]:
    return lambda: b"second\n" in machine.jobs.log(job_id).data and status_of(machine, job_id) == Phase.RUNNING


def status_of(machine: Machine, job_id: str) -> Phase:
    return machine.context.batch_jobs.get(machine.installation.owner.project_id, job_id).status


async def follow(replica: Replica, key: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A log that is followed, behind its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader, writer
