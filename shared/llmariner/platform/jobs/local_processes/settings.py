"""What jobs as processes of one machine may use, and where they run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmariner.platform.jobs import Network
from llmariner.platform.processors import cores_of_share

__all__ = ["MemoryBudget", "ProcessJobSettings", "readable_folders"]

_BRIEF_MEMORY_BYTES = 2 * 1024**3
"""A brief job loads the tokenizer of a model: that took 0.7 GiB with 49,000 tokens, and some have 256,000."""


class MemoryBudget(Protocol):
    """The memory that jobs share with engines. The methods may be called in any thread."""

    def reserve(self, owner: str, project_id: str, size_bytes: int) -> str:
        """Reserve memory for a job; returns why there is none now for its project, else the empty string.

        An error reserves nothing.
        """

    def release(self, owner: str) -> None:
        """Give it back. Idempotent."""

    def refusal(self, size_bytes: int) -> str:
        """Why so much can never be reserved; empty where it can."""


_BRIEF_SECONDS = 3600.0
"""Many times what the largest file takes. A model's chat template is a program, which may have no end."""


@dataclass(frozen=True)
class ProcessJobSettings:
    """Limits of each job, and where it runs.

    `folder`: of the folders of jobs. `python`: the interpreter whose environment commands see first. `readable`, `hidden`:
    as in `Sandbox`. `slots`: jobs that run at a time, besides a brief one. `free_disk_bytes`: what jobs must leave free.
    `backoff_seconds`: what a job waits after its first failure before it is started again, and twice as long after each
    further one. `cores`: that a job may use, 0 for its share of those that the platform has.
    `network`: of the trial whether jobs can run: that of the jobs of projects.
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
    backoff_seconds: float = 10.0
    cores: int = 0
    network: Network = Network.MACHINE

    def processors(self, place: int) -> tuple[int, ...]:
        """The numbers of the processors that the job at a place may use. Jobs share one only where there are too few."""
        found = sorted(os.sched_getaffinity(0))
        number = cores_of_share(self.cores, self.slots)
        return tuple(found[(place * number + each) % len(found)] for each in range(number))

    def memory_of(self, *, brief: bool) -> int:
        """The memory that a job may use."""
        return min(_BRIEF_MEMORY_BYTES, self.memory_bytes) if brief else self.memory_bytes

    def seconds_of(self, *, brief: bool) -> float:
        """How long a job may run."""
        return min(_BRIEF_SECONDS, self.seconds) if brief else self.seconds

    def places(self, *, brief: bool) -> range:
        """The numbers of the places where jobs run."""
        return range(self.slots, self.slots + 1) if brief else range(self.slots)


def readable_folders(python: Path) -> tuple[str, ...]:
    """The folders that an interpreter needs: its virtual environment, and programs and libraries of the one it is made of.

    Not all of the latter's prefix: that may be somebody's home folder.
    """
    prefix = python.resolve().parent.parent
    return str(python.absolute().parent.parent), *(str(prefix / name) for name in ("bin", "lib", "lib64"))
