"""Settings of jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmariner.environment import Environment, read_number
from llmariner.errors import Unavailable

__all__ = ["JobSettings", "no_job_runner"]

_GIB = 1024**3
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class JobSettings:
    """Whether and how commands of projects run as jobs."""

    adapter: str = "processes"
    """`LLMARINER_JOBS`: `processes`: `llma up` runs the commands of jobs on this machine; `off`: nothing does."""

    images: tuple[str, ...] = ("pytorch-2.1",)
    """`LLMARINER_JOB_IMAGES`: names of images that a job may ask for, separated by commas."""

    project_jobs: int = 100
    """`LLMARINER_PROJECT_JOBS`: jobs of one project that have not ended."""

    slots: int = 1
    """`LLMARINER_JOB_SLOTS`: jobs that run on this machine at a time."""

    memory_bytes: int = 0
    """`LLMARINER_JOB_MEMORY_GIB`: memory of a job; 0: half of the memory for engines, which jobs share."""

    disk_bytes: int = 4 * _GIB
    """`LLMARINER_JOB_DISK_GIB`: size of all files of a job."""

    seconds: float = 86_400.0
    """`LLMARINER_JOB_SECONDS`: how long a job may run."""

    def missing(self) -> Unavailable:
        """The error of an installation that has nothing which runs jobs."""
        if self.adapter == "off":
            return no_job_runner(
                "Jobs are turned off in this installation: an operator turns them on with LLMARINER_JOBS=processes."
            )
        return no_job_runner(
            "This installation runs no jobs: only a platform on one machine does, which `llma up` starts."
        )

    @classmethod
    def load(cls, env: Environment) -> JobSettings:
        """Read from a mapping. Raises ValueError for an invalid value."""
        adapter = env.get("LLMARINER_JOBS", "") or cls.adapter
        if adapter not in ("processes", "off"):
            raise ValueError(f"LLMARINER_JOBS must be processes or off, not {adapter!r}.")
        names = env.get("LLMARINER_JOB_IMAGES", "") or ",".join(cls.images)
        images = tuple(name.strip() for name in names.split(",") if name.strip())
        if wrong := [name for name in images if not _IMAGE.fullmatch(name)]:
            raise ValueError(f"LLMARINER_JOB_IMAGES: {wrong[0]!r} must be a name such as pytorch-2.1.")
        return cls(
            adapter=adapter,
            images=images,
            project_jobs=int(read_number(env, "LLMARINER_PROJECT_JOBS", cls.project_jobs, minimum=1)),
            slots=int(read_number(env, "LLMARINER_JOB_SLOTS", cls.slots, minimum=1)),
            memory_bytes=int(read_number(env, "LLMARINER_JOB_MEMORY_GIB", 0) * _GIB),
            disk_bytes=int(read_number(env, "LLMARINER_JOB_DISK_GIB", cls.disk_bytes / _GIB, minimum=0.01) * _GIB),
            seconds=read_number(env, "LLMARINER_JOB_SECONDS", cls.seconds, minimum=1),
        )


def no_job_runner(reason: str) -> Unavailable:
    """The error where nothing runs jobs."""
    return Unavailable(reason, code="no_job_runner", headers={"x-should-retry": "false"})
