"""Counts of requests in the waiting rooms, which each gateway instance reports every second while it has any.

The counts are for display only. Admission uses the engine's own queue length (`Status.requests_waiting` of the adapter).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from llmariner.platform.serving import Status

__all__ = ["WaitingRequests"]

# An instance without a report for this long has ended, or reports to another process of the control plane.
_FRESH_SECONDS = 5.0
_MAX_INSTANCES = 1000


class WaitingRequests:
    """The latest counts of each gateway instance."""

    def __init__(self) -> None:
        self._by_instance: dict[str, tuple[float, dict[str, int]]] = {}

    def report(self, instance: str, counts: Mapping[str, int]) -> None:
        """Replace the counts of an instance: waiting requests by model id."""
        now = time.monotonic()
        self._by_instance.pop(instance, None)
        if counts:
            self._by_instance[instance] = (now, dict(counts))
        self._by_instance = {name: row for name, row in self._by_instance.items() if now - row[0] < _FRESH_SECONDS}
        while len(self._by_instance) > _MAX_INSTANCES:
            del self._by_instance[next(iter(self._by_instance))]

    def add_to(self, model_id: str, status: Status) -> Status:
        """The status with the model's waiting requests added to `requests_waiting`."""
        waiting = self._counts().get(model_id, 0)
        return replace(status, requests_waiting=status.requests_waiting + waiting) if waiting else status

    def add_to_all(self, statuses: Mapping[str, Status]) -> dict[str, Status]:
        """As `add_to`, for every model that has a status or waiting requests."""
        found, counts = dict(statuses), self._counts()
        for model_id, waiting in counts.items():
            status = found.get(model_id, Status())
            found[model_id] = replace(status, requests_waiting=status.requests_waiting + waiting)
        return found

    def _counts(self) -> dict[str, int]:
        total: dict[str, int] = {}
        oldest = time.monotonic() - _FRESH_SECONDS
        for at, counts in self._by_instance.values():
            if at > oldest:
                for model_id, count in counts.items():
                    total[model_id] = total.get(model_id, 0) + count
        return total
