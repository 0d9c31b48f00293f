"""Which models somebody waits for, and where each of them was started after it had failed on its cluster."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from llmariner.platform.serving import Phase
from llmariner.platform.serving.placed.view import EngineView

__all__ = ["Retries", "Retry"]

_WAITED_SECONDS = 30.0
"""Gateways wake a model twice a second as long as requests wait for it; a wake may take this long."""
_STARTING_SECONDS = 5.0
"""How long a cluster may take to show an engine that it was asked to start."""
_MAX_REMEMBERED = 2000


@dataclass
class Retry:
    """The attempts for those who wait now.

    `tried`: the clusters on which it was started after a failure; `latest` of them, at `started_at` (monotonic).
    """

    waited_at: float
    tried: set[str] = field(default_factory=set)
    latest: str = ""
    started_at: float = -math.inf

    def note_start(self, cluster_id: str) -> None:
        """It is started on another cluster."""
        self.tried.add(cluster_id)
        self.latest = cluster_id
        self.started_at = time.monotonic()

    def is_starting(self, view: EngineView) -> bool:
        """Whether the latest cluster was asked to start it and does not show it yet."""
        asleep = {each.cluster_id for each in view.located if each.status.phase is Phase.ASLEEP}
        return self.latest in asleep and time.monotonic() - self.started_at < _STARTING_SECONDS


class Retries:
    """Those of the models that were woken lately."""

    def __init__(self) -> None:
        self._retries: dict[str, Retry] = {}

    def note_wake(self, model_id: str) -> None:
        """Somebody waits for a model."""
        found = self.of(model_id) or Retry(0.0)
        found.waited_at = time.monotonic()
        self._retries.pop(model_id, None)
        self._retries[model_id] = found
        if len(self._retries) > _MAX_REMEMBERED:
            del self._retries[next(iter(self._retries))]

    def of(self, model_id: str) -> Retry | None:
        """None: nobody waits for the model, so that it is started nowhere else."""
        found = self._retries.get(model_id)
        return found if found is not None and time.monotonic() - found.waited_at < _WAITED_SECONDS else None

    def forget(self, model_id: str) -> None:
        """It is put to sleep, or removed."""
        self._retries.pop(model_id, None)
