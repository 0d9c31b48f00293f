"""The bytes of contents that arrive in this process: they count already against the limit of what they are for.

That is the quota of a project, or the room of an upload.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["BytesInFlight", "CountedContent"]

_CHECKED_EVERY = 4 * 1024 * 1024


class BytesInFlight:
    """The sums of the projects, or of the uploads, by id. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def change(self, target_id: str, size_bytes: int) -> int:
        """Count more bytes, or fewer; returns the sum of the project or upload."""
        with self._lock:
            total = self._bytes[target_id] + size_bytes
            self._bytes[target_id] = total
            if not total:
                del self._bytes[target_id]
            return total


class CountedContent:
    """The bytes of one content. `check` takes its size and that of the others, and raises where there is no room."""

    def __init__(self, in_flight: BytesInFlight, target_id: str, check: Callable[[int, int], None]) -> None:
        self._in_flight = in_flight
        self._target_id = target_id
        self._check = check
        self._counted = self._checked = 0

    def grow(self, size_bytes: int) -> None:
        """Count the content as at least that large. The room is checked at the start, and every 4 MiB from then on."""
        more = max(0, size_bytes - self._counted)
        total = self._in_flight.change(self._target_id, more)
        self._counted += more
        if not self._checked or self._counted - self._checked >= _CHECKED_EVERY:
            self._checked = max(1, self._counted)
            self._check(self._counted, total - self._counted)

    def release(self) -> None:
        """Count nothing of it any more: it is discarded, or a transaction counts it now. Idempotent."""
        counted, self._counted = self._counted, 0
        self._in_flight.change(self._target_id, -counted)
