"""Failed authentications, counted by where they come from: whoever guesses keys soon asks nobody any more.

Each unknown key is a question to the control function and a transaction there. A key that this process knows is never
held up, whoever else comes from its address.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from llmariner.client_networks import client_network
from llmariner.errors import AuthenticationFailed, PermissionDenied, RateLimited

__all__ = ["FailedAttemptLimiter", "ThrottledLookups"]

Found = TypeVar("Found")

_MAX_CLIENTS = 10_000
_MAX_ACCEPTED = 10_000
# An address that speaks for others, none of which can be told apart.
_PROXY_MULTIPLIER = 10


class FailedAttemptLimiter:
    """A token bucket for each source. `per_minute`: of one source, in this process; as many at once after a quiet minute.

    `what` is guessed, in the plural. Safe to share between threads.
    """

    def __init__(self, per_minute: int, what: str = "API keys") -> None:
        self._per_minute = per_minute
        self._what = what
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()

    def check(self, source: str | None, *, untrusted_proxy: bool = False) -> None:
        """RateLimited when too many failed from there of late. `forwarding`: it speaks for callers that nobody can tell."""
        key = (client_network(source), untrusted_proxy)
        if key not in self._buckets:
            return
        tokens_left = self._tokens_left(key, time.monotonic())
        if tokens_left < 1:
            wait = (1 - tokens_left) * 60 / self._capacity(key)
            raise RateLimited(
                f"Too many unknown {self._what} came from {source or 'your address'}: others are not looked up for a "
                f"while. Correct yours, and try again in {wait:.0f} s.",
                code="too_many_failed_authentications",
                headers={"retry-after": str(int(wait) + 1)},
            )

    def record_failure(self, source: str | None, *, untrusted_proxy: bool = False) -> None:
        """One failed."""
        key, now = (client_network(source), untrusted_proxy), time.monotonic()
        with self._lock:
            # Those that were looked up at the same time may overdraw it, by no more than what comes back in a minute.
            self._buckets[key] = (max(self._tokens_left(key, now) - 1, -float(self._capacity(key))), now)
            self._buckets.move_to_end(key)
            if len(self._buckets) > _MAX_CLIENTS:
                self._buckets.popitem(last=False)

    def _tokens_left(self, key: tuple[str, bool], now: float) -> float:
        capacity = self._capacity(key)
        tokens_left, at = self._buckets.get(key, (capacity, now))
        return min(capacity, tokens_left + (now - at) * capacity / 60)

    def _capacity(self, key: tuple[str, bool]) -> int:
        return self._per_minute * _PROXY_MULTIPLIER if key[1] else self._per_minute


class ThrottledLookups:
    """API keys and tokens looked up in the database, few of one source in vain. Safe to share between threads.

    One that was accepted here is looked up whatever else its source sends.
    """

    def __init__(self, per_minute: int) -> None:
        self._failed = FailedAttemptLimiter(per_minute)
        self._lock = threading.Lock()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    def look_up(
        self, secret: str, find: Callable[[], Found], source: str | None, *, untrusted_proxy: bool = False
    ) -> Found:
        """What `find` returns. RateLimited, without asking it, when too many failed from there of late.

        `find` raises AuthenticationFailed, or PermissionDenied, for a secret that is no good. `forwarding` as in
        `FailedAttemptLimiter.check`.
        """
        digest = hashlib.sha256(secret.encode()).digest()
        if digest not in self._accepted:
            self._failed.check(source, untrusted_proxy=untrusted_proxy)
        try:
            found = find()
        except (AuthenticationFailed, PermissionDenied) as error:
            self._failed.record_failure(source, untrusted_proxy=untrusted_proxy)
            if isinstance(error, AuthenticationFailed):
                with self._lock:
                    self._accepted.pop(digest, None)
            raise
        with self._lock:
            self._accepted[digest] = None
            self._accepted.move_to_end(digest)
            if len(self._accepted) > _MAX_ACCEPTED:
                self._accepted.popitem(last=False)
        return found
