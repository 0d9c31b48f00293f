"""The port to placements: which engines are placed on which worker clusters, and where one is placed next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmariner.platform.serving.kserve.model_lookup import EngineKey, ServedEngine

__all__ = ["HOME", "HOME_NAME", "Choice", "Placement", "Placements"]

HOME, HOME_NAME = "cluster-local", "default"
"""Id and name of the control plane's own cluster or machine. Placements there have no row."""


@dataclass(frozen=True)
class Placement:
    """An engine on a worker cluster. `woken_at`: Unix seconds, when it was placed or last woken there.

    `is_draining`: the cluster gets no new work, and this engine is to be moved.
    """

    engine: EngineKey
    cluster_id: str
    cluster_name: str
    woken_at: float
    is_draining: bool


@dataclass(frozen=True)
class Choice:
    """`cluster_id` None: nowhere now, for the `reason`, a sentence for those who wait."""

    cluster_id: str | None
    reason: str = ""


class Placements(Protocol):
    """Each call may query a database. Another process may change what it returned."""

    async def exist(self) -> bool:
        """Whether there are worker clusters or placements at all."""

    async def of(self, engine: EngineKey) -> Sequence[Placement]:
        """The placements of an engine, the newest first."""

    async def all(self) -> Sequence[Placement]:
        """All placements, the newest first."""

    async def is_home_draining(self) -> bool:
        """Whether the control plane's own cluster gets no new work."""

    async def place(self, served: ServedEngine, *, excluded: Collection[str]) -> Choice:
        """Choose a cluster for an engine, outside of `excluded`, and record that it is woken there. HOME is not recorded."""

    async def remove(self, engine: EngineKey, cluster_id: str) -> None:
        """Nothing of the engine is left on the cluster. Idempotent."""

    async def forget_gone(self) -> None:
        """Remove the placements on clusters that are not registered any more: nothing there can be asked again."""
