"""Which engine of several takes a request, where a model has more than one.

A Service would choose, too, but by connection and not by load; and who does not know which engine worked on a request
can't ask it what a request had used whose caller hung up (`settlement`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = ["EngineReplicas"]

# By then the cluster has noticed, too, that an engine does not answer, and tells of it no more.
_AVOIDED_SECONDS = 10.0


class EngineReplicas:
    """The requests of this process that are under way, by engine."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._avoided_until: dict[str, float] = {}

    def acquire(self, endpoints: Sequence[str]) -> str:
        """The engine with the fewest of our requests, of those that answered of late; to be left by `leave`."""
        if self._avoided_until:
            now = time.monotonic()
            self._avoided_until = {each: until for each, until in self._avoided_until.items() if until > now}
            endpoints = [each for each in endpoints if each not in self._avoided_until] or endpoints
        running = self._running
        chosen = min(endpoints, key=lambda each: running.get(each, 0))
        running[chosen] = running.get(chosen, 0) + 1
        return chosen

    def release(self, endpoint: str) -> None:
        """A request has ended."""
        if self._running[endpoint] == 1:
            del self._running[endpoint]
        else:
            self._running[endpoint] -= 1

    def mark_unresponsive(self, endpoint: str) -> None:
        """It did not answer: others are asked for a while, if there are others."""
        self._avoided_until[endpoint] = time.monotonic() + _AVOIDED_SECONDS
