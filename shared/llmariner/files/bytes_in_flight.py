"""The bytes of contents that arrive in this process: they count against the quotas of their projects already."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["BytesInFlight", "CountedContent"]

_CHECKED_EVERY = 4 * 1024 * 1024


class BytesInFlight:
    """The sums of the projects. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def change(self, project_id: str, size_bytes: int) -> int:
        """Count more bytes, or fewer; returns the project's sum."""
        with self._lock:
            total = self._bytes[project_id] + size_bytes
            self._bytes[project_id] = total
            if not total:
                del self._bytes[project_id]
            return total


class CountedContent:
    """The bytes of one content. `check` takes the project's sum, and raises where the quota has no room for it."""

    def __init__(self, in_flight: BytesInFlight, project_id: str, check: Callable[[int], None]) -> None:
        self._in_flight = in_flight
        self._project_id = project_id
        self._check = check
        self._counted = self._checked = 0

    def grow(self, size_bytes: int) -> None:
        """Count the content as at least that large. The quota is checked at the start, and every 4 MiB from then on."""
        more = max(0, size_bytes - self._counted)
        total = self._in_flight.change(self._project_id, more)
        self._counted += more
        if not self._checked or self._counted - self._checked >= _CHECKED_EVERY:
            self._checked = max(1, self._counted)
            self._check(total)

    def release(self) -> None:
        """Count nothing of it any more: it is discarded, or a transaction counts it now. Idempotent."""
        counted, self._counted = self._counted, 0
        self._in_flight.change(self._project_id, -counted)
