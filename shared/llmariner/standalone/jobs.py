"""Jobs of the standalone mode: commands in the engine environment, with memory of the engines' budget."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

from llmariner.context import Context
from llmariner.fine_tuning.port_ids import job_id_of
from llmariner.job_settings import JobSettings
from llmariner.platform.capacity import Amounts
from llmariner.platform.jobs import Network
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.settings import ProcessJobSettings, readable_folders
from llmariner.platform.processors import cores_of_share
from llmariner.platform.serving.local_processes.adapter import ProcessServing

__all__ = ["EngineMemory", "job_amounts", "make_jobs"]

T = TypeVar("T")
_FINE_TUNING = "ftjob-"
_FREE_DISK_BYTES = 1024**3
_CALL_SECONDS = 120.0
"""Ending an idle engine takes seconds, and the largest half a minute."""
_DESCRIPTION = (
    "The command runs as a process of the platform's machine, in the Python environment of its engines and not in the "
    "image. It has no GPU. The kernel keeps it on {cores} of the machine's {all_cores} cores, and it may use {memory:.1f} "
    "GiB of memory."
)


def job_amounts(settings: JobSettings, serving: ProcessServing) -> Amounts:
    """What each job holds while it runs: its memory, and the cores that it may use."""
    cores = cores_of_share(settings.cores, settings.slots)
    return {"memory": settings.memory_bytes or serving.budget // 2, "cpu": 1000 * cores}


def make_jobs(
    context: Context, settings: JobSettings, serving: ProcessServing, *, home: Path, python: Path
) -> ProcessJobs:
    """The adapter, not started yet. `python`: the engine environment's. Called in the loop that `serving` runs in."""
    amounts = job_amounts(settings, serving)
    process_settings = ProcessJobSettings(
        folder=home / "jobs",
        python=python,
        description=_DESCRIPTION.format(
            cores=amounts["cpu"] // 1000, all_cores=len(os.sched_getaffinity(0)), memory=amounts["memory"] / 1024**3
        ),
        memory_bytes=amounts["memory"],
        disk_bytes=settings.disk_bytes,
        free_disk_bytes=_FREE_DISK_BYTES,
        seconds=settings.seconds,
        readable=readable_folders(python),
        hidden=(str(home), context.env.get("LLMARINER_OBJECTS_FOLDER") or str(home)),
        slots=settings.slots,
        cores=settings.cores,
        network=Network(settings.network),
    )

    def read_file(project_id: str, file_id: str) -> Iterator[bytes]:
        return context.files.read(context.files.get(project_id, file_id))

    memory = EngineMemory(serving, asyncio.get_running_loop(), amounts["cpu"])
    jobs = ProcessJobs(process_settings, read_file, memory, serving.times)

    def reconcile(job_id: str) -> None:
        if job_id.startswith(_FINE_TUNING):
            context.fine_tuning.reconciler.reconcile(job_id_of(job_id))
        else:
            context.batch_job_reconciler.reconcile(job_id)

    jobs.subscribe(reconcile)
    return jobs


class EngineMemory:
    """A MemoryBudget of what the engines have; its methods are called in threads other than the loop's."""

    def __init__(self, serving: ProcessServing, loop: asyncio.AbstractEventLoop, millicores: int) -> None:
        self._serving = serving
        self._loop = loop
        self._millicores = millicores

    def reserve(self, owner: str, project_id: str, size_bytes: int) -> str:
        """See `MemoryBudget`."""
        needed = self._serving.reserve_memory(owner, size_bytes, project=project_id, millicores=self._millicores)
        reserving = asyncio.run_coroutine_threadsafe(needed, self._loop)
        try:
            return reserving.result(_CALL_SECONDS)
        except TimeoutError:
            # Else it reserves later, for a job that may be gone by then or waits for that very memory.
            reserving.cancel()
            self.release(owner)
            return "It waits for idle models to end."

    def release(self, owner: str) -> None:
        """See `MemoryBudget`."""
        self._call(self._serving.release_memory(owner))

    def refusal(self, size_bytes: int) -> str:
        """See `MemoryBudget`."""
        return self._serving.memory_refusal(size_bytes)

    def _call(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)
