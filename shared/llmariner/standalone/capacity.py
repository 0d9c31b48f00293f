"""The capacity port on one machine: its memory and cores, as engines and jobs hold them. It has no GPU.

Engines and jobs ask for the quotas of their project whenever they would start (`quotas.rules`): there is nothing to apply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from llmariner.platform.capacity import Claim, Kind, OrganizationLimits, Use
from llmariner.platform.processors import usable_cores

__all__ = ["MachineCapacity"]

_CALL_SECONDS = 10.0


class _Engines(Protocol):
    @property
    def budget(self) -> int: ...

    def claims(self) -> list[Claim]: ...


class MachineCapacity:
    """`engines` belong to `loop`. `waiting_jobs`: the number of waiting jobs of each project; `job`: what each needs."""

    def __init__(
        self,
        engines: _Engines,
        loop: asyncio.AbstractEventLoop,
        waiting_jobs: Callable[[], Mapping[str, int]],
        job: Mapping[str, int],
    ) -> None:
        self._engines = engines
        self._loop = loop
        self._waiting_jobs = waiting_jobs
        self._job = job

    def use(self) -> Use:
        """See the port."""
        held = asyncio.run_coroutine_threadsafe(self._claims(), self._loop).result(_CALL_SECONDS)
        waiting = [
            Claim(project_id, Kind.JOBS, self._job, waits=True)
            for project_id, number in self._waiting_jobs().items()
            for _ in range(number)
        ]
        pool = {"gpu": 0, "cpu": 1000 * usable_cores(), "memory": self._engines.budget}
        return Use(pool, [*held, *waiting])

    def check(self, quotas: OrganizationLimits, changed: Collection[str]) -> None:
        """See the port: every limit can take effect."""

    def apply(self, quotas: OrganizationLimits) -> bool:
        """See the port: no effect, it holds already."""
        return True

    async def _claims(self) -> list[Claim]:
        return self._engines.claims()
