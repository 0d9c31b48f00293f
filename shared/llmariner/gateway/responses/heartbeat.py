"""When a stream that waits is told something."""

from __future__ import annotations

import time

__all__ = ["Heartbeat"]

# How soon it hears of another phase.
_POLL_SECONDS = 0.5


class Heartbeat:
    """At every change of phase, and after `seconds` of silence. `pause`: how long to wait before asking again."""

    __slots__ = ("_phase", "_seconds", "_sent_at", "poll_interval")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._phase = ""
        self._sent_at = 0.0
        self.poll_interval = min(seconds, _POLL_SECONDS)

    def due(self, phase: str) -> bool:
        """Whether now; counts as told then."""
        now = time.monotonic()
        if phase == self._phase and now - self._sent_at < self._seconds:
            return False
        self._phase, self._sent_at = phase, now
        return True
