"""Load balancing among the engine replicas of a model, by the fewest requests in flight.

A Kubernetes Service balances by connection, not by load, and hides which replica served a request. Usage reconciliation
must query that replica after a client disconnect.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = ["EngineReplicas"]

# By then the cluster has noticed, too, that a replica does not respond, and no longer lists it.
_AVOIDED_SECONDS = 10.0


class EngineReplicas:
    """The requests of this gateway instance in flight, by engine replica."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._avoided_until: dict[str, float] = {}

    def acquire(self, endpoints: Sequence[str]) -> str:
        """Choose the responsive replica with the fewest requests in flight. The caller returns it by `release`."""
        if self._avoided_until:
            now = time.monotonic()
            self._avoided_until = {each: until for each, until in self._avoided_until.items() if until > now}
            endpoints = [each for each in endpoints if each not in self._avoided_until] or endpoints
        running = self._running
        chosen = min(endpoints, key=lambda each: running.get(each, 0))
        running[chosen] = running.get(chosen, 0) + 1
        return chosen

    def release(self, endpoint: str) -> None:
        """A request to that replica has ended."""
        if self._running[endpoint] == 1:
            del self._running[endpoint]
        else:
            self._running[endpoint] -= 1

    def mark_unresponsive(self, endpoint: str) -> None:
        """A replica did not respond: others are preferred for a while, if there are any."""
        self._avoided_until[endpoint] = time.monotonic() + _AVOIDED_SECONDS
