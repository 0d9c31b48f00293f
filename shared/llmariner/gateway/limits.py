"""Limits of one key in one process: requests and tokens per minute, as buckets that refill steadily."""

from __future__ import annotations

import time

from llmariner.errors import RateLimited

__all__ = ["Limits"]

_MOST_KEYS = 50_000


class _Allowance:
    """What a key has left of both, at a time of the monotonic clock."""

    __slots__ = ("at", "requests", "tokens")

    def __init__(self, requests: float, tokens: float, at: float) -> None:
        self.requests = requests
        self.tokens = tokens
        self.at = at


class Limits:
    """Allowances by key id. Tokens are charged after the fact, so a bucket may be overdrawn by what was in flight."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._most_requests, self._most_tokens = float(requests_per_minute), float(tokens_per_minute)
        self._requests_rate, self._tokens_rate = requests_per_minute / 60, tokens_per_minute / 60
        self._constant = [
            (b"x-ratelimit-limit-requests", b"%d" % requests_per_minute),
            (b"x-ratelimit-limit-tokens", b"%d" % tokens_per_minute),
        ]
        self._allowances: dict[str, _Allowance] = {}

    def admit(self, key_id: str, *, unlimited: bool) -> list[tuple[bytes, bytes]]:
        """Count one request; returns the x-ratelimit headers. RateLimited says when to come again."""
        if unlimited:
            return []
        left = self._refilled(key_id)
        if left.requests < 1 or left.tokens <= 0:
            raise self._exceeded(left)
        left.requests -= 1
        return self._headers(left)

    def charge(self, key_id: str, tokens: int) -> None:
        """Take tokens that were used."""
        allowance = self._allowances.get(key_id)
        if allowance is not None:
            allowance.tokens -= tokens

    def _refilled(self, key_id: str) -> _Allowance:
        now = time.monotonic()
        left = self._allowances.get(key_id)
        if left is None:
            if len(self._allowances) >= _MOST_KEYS:
                del self._allowances[next(iter(self._allowances))]  # the one made first
            left = self._allowances[key_id] = _Allowance(self._most_requests, self._most_tokens, now)
            return left
        seconds = now - left.at
        left.at = now
        left.requests = min(self._most_requests, left.requests + seconds * self._requests_rate)
        left.tokens = min(self._most_tokens, left.tokens + seconds * self._tokens_rate)
        return left

    def _exceeded(self, left: _Allowance) -> RateLimited:
        if left.requests < 1:
            what, most, wait = "requests", self._most_requests, (1 - left.requests) / self._requests_rate
        else:
            what, most, wait = "tokens", self._most_tokens, (1 - left.tokens) / self._tokens_rate
        return RateLimited(
            f"Rate limit reached for {what}: {most:.0f} per minute. Try again in {_duration(wait).decode()}.",
            headers={
                "retry-after": str(int(wait) + 1),
                "retry-after-ms": str(int(wait * 1000) + 1),
                **{name.decode(): value.decode() for name, value in self._headers(left)},
            },
        )

    def _headers(self, left: _Allowance) -> list[tuple[bytes, bytes]]:
        requests, tokens = left.requests, left.tokens
        return [
            *self._constant,
            (b"x-ratelimit-remaining-requests", b"%d" % requests),
            (b"x-ratelimit-remaining-tokens", b"%d" % (tokens if tokens > 0 else 0)),
            (b"x-ratelimit-reset-requests", _duration((self._most_requests - requests) / self._requests_rate)),
            (b"x-ratelimit-reset-tokens", _duration((self._most_tokens - tokens) / self._tokens_rate)),
        ]


def _duration(seconds: float) -> bytes:
    """As OpenAI writes it: 120ms, 1.5s, 1m30s."""
    if seconds < 1:
        return b"%dms" % (seconds * 1000)
    if seconds < 60:
        return b"%.3gs" % seconds
    return b"%dm%ds" % (seconds // 60, seconds % 60)
