"""The schedule of status comments in a stream that waits."""

from __future__ import annotations

import time

__all__ = ["Heartbeat"]

# The longest delay until a change of phase is reported.
_POLL_SECONDS = 0.5


class Heartbeat:
    """Due at every change of phase, and `seconds` after the last one. `poll_interval`: seconds between calls of `due`."""

    __slots__ = ("_phase", "_seconds", "_sent_at", "poll_interval")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._phase = ""
        self._sent_at = 0.0
        self.poll_interval = min(seconds, _POLL_SECONDS)

    def due(self, phase: str) -> bool:
        """Whether a comment is due now; True counts as sent."""
        now = time.monotonic()
        if phase == self._phase and now - self._sent_at < self._seconds:
            return False
        self._phase, self._sent_at = phase, now
        return True
