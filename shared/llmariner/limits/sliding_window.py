"""How much was used in the last minute or day, kept by sixtieths of it."""

from __future__ import annotations

import math

__all__ = ["Window"]

_PARTS = 60


class Window:
    """A sliding window: what is used counts for the whole `seconds` after its sixtieth, so never a moment too short.

    `rows`: [number of the sixtieth since 1970, amount], oldest first, as they are stored.
    """

    def __init__(self, seconds: int, rows: list[list[int]]) -> None:
        self.rows = rows
        self._width = seconds / _PARTS

    def forget(self, now: float) -> None:
        """Drop what counts no more."""
        oldest = math.floor(now / self._width) - _PARTS
        while self.rows and self.rows[0][0] < oldest:
            del self.rows[0]

    def add(self, at: float, amount: int) -> None:
        """Count an amount used at a time, which may lie a little in the past."""
        part = math.floor(at / self._width)
        place = len(self.rows)
        while place and self.rows[place - 1][0] > part:
            place -= 1
        if place and self.rows[place - 1][0] == part:
            self.rows[place - 1][1] += amount
        else:
            self.rows.insert(place, [part, amount])

    @property
    def used(self) -> int:
        """What counts, as of the last `forget`."""
        return sum(amount for _, amount in self.rows)

    def until(self, amount: int, now: float) -> float | None:
        """Seconds until that much of what counts now counts no more; None: there is not that much."""
        freed = 0
        for part, used in self.rows:
            freed += used
            if freed >= amount:
                return max(0.0, (part + 1 + _PARTS) * self._width - now)
        return None
