"""Sliding windows: usage of the last minute or day, in sixty buckets."""

from __future__ import annotations

import math

__all__ = ["SlidingWindow"]

_BUCKETS = 60


class SlidingWindow:
    """A window of `seconds`. Usage counts until `seconds` after its bucket ends, so never for less than the window.

    `buckets`: [number of the bucket since 1970, amount], oldest first, as they are stored.
    """

    def __init__(self, seconds: int, buckets: list[list[int]]) -> None:
        self.buckets = buckets
        self._width = seconds / _BUCKETS

    def expire(self, now: float) -> None:
        """Drop buckets that no longer count."""
        oldest = math.floor(now / self._width) - _BUCKETS
        while self.buckets and self.buckets[0][0] < oldest:
            del self.buckets[0]

    def add(self, at: float, amount: int) -> None:
        """Count an amount used at time `at`, which may lie in the past."""
        bucket = math.floor(at / self._width)
        index = len(self.buckets)
        while index and self.buckets[index - 1][0] > bucket:
            index -= 1
        if index and self.buckets[index - 1][0] == bucket:
            self.buckets[index - 1][1] += amount
        else:
            self.buckets.insert(index, [bucket, amount])

    @property
    def used(self) -> int:
        """The usage in the window, as of the last `expire`."""
        return sum(amount for _, amount in self.buckets)

    def seconds_until_freed(self, amount: int, now: float) -> float | None:
        """Seconds until `amount` of the present usage has expired; None if the usage is less than that."""
        freed = 0
        for bucket, used in self.buckets:
            freed += used
            if freed >= amount:
                return max(0.0, (bucket + 1 + _BUCKETS) * self._width - now)
        return None
