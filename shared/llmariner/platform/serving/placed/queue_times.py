"""How long requests have waited for an engine that waits for room."""

from __future__ import annotations

import time
from dataclasses import dataclass

from llmariner.platform.serving import Phase, Status

__all__ = ["QueueTimes"]

# Who waits for an engine asks for it again within seconds, of any replica: nobody waits after a minute without a question.
_UNASKED_SECONDS = 60.0
_MAX_REMEMBERED = 4000


@dataclass
class _Wait:
    since: float
    asked_at: float


class QueueTimes:
    """Since when engines wait for room on their clusters, as far as somebody has waited for them here.

    An engine that ran for a day and lost its room has not waited for a day, and one that nobody wanted has not waited.
    """

    def __init__(self) -> None:
        self._waits: dict[tuple[str, str], _Wait] = {}

    def seconds(self, cluster_id: str, model_id: str, status: Status) -> float:
        """For how long, with what the cluster says now; 0 for an engine that does not wait."""
        found = self._waits.pop((cluster_id, model_id), None)
        if status.phase is not Phase.QUEUED:
            return 0.0
        now = time.monotonic()
        if found is None or now - found.asked_at > _UNASKED_SECONDS:
            found = _Wait(now, now)
        found.asked_at = now
        self._waits[cluster_id, model_id] = found
        if len(self._waits) > _MAX_REMEMBERED:
            del self._waits[next(iter(self._waits))]
        return now - found.since
