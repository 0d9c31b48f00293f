"""Limits of one key in one process: requests and tokens per minute, as buckets that refill steadily."""

from __future__ import annotations

import time

from llmariner.errors import RateLimited

__all__ = ["Limits"]

_MOST_KEYS = 50_000


class _Bucket:
    __slots__ = ("at", "rate", "size", "text", "value")

    def __init__(self, per_minute: int) -> None:
        self.size = float(per_minute)
        self.rate = per_minute / 60.0
        self.value = self.size
        self.text = b"%d" % per_minute
        self.at = time.monotonic()

    def refill(self, now: float) -> None:
        self.value = min(self.size, self.value + (now - self.at) * self.rate)
        self.at = now

    def seconds_until(self, amount: float) -> float:
        return max(0.0, (amount - self.value) / self.rate)


class Limits:
    """Buckets by key id. Tokens are charged after the fact, so a bucket may be overdrawn by what was in flight."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._per_minute = (requests_per_minute, tokens_per_minute)
        self._buckets: dict[str, tuple[_Bucket, _Bucket]] = {}

    def admit(self, key_id: str, *, unlimited: bool) -> list[tuple[bytes, bytes]]:
        """Count one request; returns the x-ratelimit headers. RateLimited says when to come again."""
        if unlimited:
            return []
        requests, tokens = self._of(key_id)
        now = time.monotonic()
        requests.refill(now)
        tokens.refill(now)
        if requests.value < 1 or tokens.value <= 0:
            short, what = (requests, "requests") if requests.value < 1 else (tokens, "tokens")
            wait = short.seconds_until(1)
            raise RateLimited(
                f"Rate limit reached for {what}: {short.size:.0f} per minute. Try again in {_duration(wait).decode()}.",
                headers={
                    "retry-after": str(int(wait) + 1),
                    "retry-after-ms": str(int(wait * 1000) + 1),
                    **{name.decode(): value.decode() for name, value in self._headers(requests, tokens)},
                },
            )
        requests.value -= 1
        return self._headers(requests, tokens)

    def charge(self, key_id: str, tokens: int) -> None:
        """Take tokens that were used."""
        buckets = self._buckets.get(key_id)
        if buckets is not None:
            buckets[1].value -= tokens

    def _of(self, key_id: str) -> tuple[_Bucket, _Bucket]:
        buckets = self._buckets.get(key_id)
        if buckets is None:
            if len(self._buckets) >= _MOST_KEYS:
                del self._buckets[next(iter(self._buckets))]  # the one made first
            buckets = self._buckets[key_id] = (_Bucket(self._per_minute[0]), _Bucket(self._per_minute[1]))
        return buckets

    @staticmethod
    def _headers(requests: _Bucket, tokens: _Bucket) -> list[tuple[bytes, bytes]]:
        return [
            (b"x-ratelimit-limit-requests", requests.text),
            (b"x-ratelimit-limit-tokens", tokens.text),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, requests.value)),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, tokens.value)),
            (b"x-ratelimit-reset-requests", _duration((requests.size - requests.value) / requests.rate)),
            (b"x-ratelimit-reset-tokens", _duration((tokens.size - tokens.value) / tokens.rate)),
        ]


def _duration(seconds: float) -> bytes:
    """As OpenAI writes it: 120ms, 1.5s, 1m30s."""
    if seconds < 1:
        return b"%dms" % (seconds * 1000)
    if seconds < 60:
        return b"%.3gs" % seconds
    return b"%dm%ds" % (seconds // 60, seconds % 60)
