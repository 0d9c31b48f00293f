"""One engine on all of its clusters at one moment: which of them serves, which is starting, which can't be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.placed.placements import HOME, Placement

__all__ = ["EngineView", "Located"]

_ORDER = (Phase.READY, Phase.LOADING, Phase.STARTING, Phase.QUEUED, Phase.STOPPING, Phase.FAILED, Phase.ASLEEP)
_RANKS = {phase: rank for rank, phase in enumerate(_ORDER)}
_IN_PROGRESS = frozenset({Phase.READY, Phase.LOADING, Phase.STARTING, Phase.QUEUED, Phase.STOPPING})


@dataclass(frozen=True)
class Located:
    """The engine on one cluster. `woken_at` 0: at home. `away_seconds`: how long it can't be asked; None: it answers.

    `queued_seconds`: how long requests have waited for room for it there.
    """

    cluster_id: str
    cluster_name: str
    status: Status
    woken_at: float = 0.0
    is_draining: bool = False
    away_seconds: float | None = None
    queued_seconds: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether it serves requests now."""
        return self.status.phase is Phase.READY and self.away_seconds is None


@dataclass(frozen=True)
class EngineView:
    """`located`: at home, then on each cluster where it is placed, the newest first."""

    served: ServedEngine
    placements: Sequence[Placement]
    located: Sequence[Located]

    def status(self) -> Status:
        """The status of the best of them, with all clusters on which it is not asleep."""
        best = min(self.located, key=_preference)
        awake = [each for each in self.located if each.cluster_id != HOME or each.status.phase is not Phase.ASLEEP]
        return replace(
            best.status, clusters=tuple((each.cluster_id, each.cluster_name, each.status.phase.value) for each in awake)
        )

    def in_progress(self, *, spill_seconds: float, away_seconds: float) -> list[Located]:
        """Those that serve, or may soon: neither drained, nor away or queued for too long, nor failed, nor asleep."""
        return [
            each
            for each in self.located
            if each.status.phase in _IN_PROGRESS
            and not each.is_draining
            and (each.away_seconds is None or each.away_seconds < away_seconds)
            and (each.status.phase is not Phase.QUEUED or each.queued_seconds < spill_seconds)
        ]

    def hopeless(self) -> frozenset[str]:
        """The clusters on which it failed, waits, or can't be asked: it is tried on others first."""
        vain = (Phase.FAILED, Phase.QUEUED)
        return frozenset(
            each.cluster_id for each in self.located if each.away_seconds is not None or each.status.phase in vain
        )

    def keeper(self) -> Located | None:
        """The one that is to serve, where one is ready on a cluster that is not drained: the newest placement."""
        ready = [each for each in self.located if each.is_ready and not each.is_draining]
        return max(ready, key=lambda each: each.woken_at, default=None)


def _preference(located: Located) -> tuple[int, bool, float]:
    return _RANKS[located.status.phase], located.is_draining, -located.woken_at
