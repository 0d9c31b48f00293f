"""Rate limits of failed authentications per client address, against guessing of keys.

Each unknown key costs a request to the control plane and a transaction there. A key that this process has accepted is
never limited, whatever else its address sends.
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
# An untrusted proxy stands for many clients that cannot be distinguished.
_PROXY_MULTIPLIER = 10


class FailedAttemptLimiter:
    """A token bucket for each client address (IPv4) or network (IPv6). Thread-safe.

    `per_minute`: failures of one address in this process, and the capacity of its bucket. `what`: the plural noun of what
    is guessed, for the error message.
    """

    def __init__(self, per_minute: int, what: str = "API keys") -> None:
        self._per_minute = per_minute
        self._what = what
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()

    def check(self, client_address: str | None, *, untrusted_proxy: bool = False) -> None:
        """RateLimited when the bucket of the address is empty. `untrusted_proxy`: it is that of an untrusted proxy."""
        key = (client_network(client_address), untrusted_proxy)
        if key not in self._buckets:
            return
        tokens_left = self._tokens_left(key, time.monotonic())
        if tokens_left < 1:
            wait = (1 - tokens_left) * 60 / self._capacity(key)
            raise RateLimited(
                f"Too many unknown {self._what} came from {client_address or 'your address'}: others are not "
                f"looked up for a while. Correct yours, and try again in {wait:.0f} s.",
                code="too_many_failed_authentications",
                headers={"retry-after": str(int(wait) + 1)},
            )

    def record_failure(self, client_address: str | None, *, untrusted_proxy: bool = False) -> None:
        """Count one failure of the address."""
        key, now = (client_network(client_address), untrusted_proxy), time.monotonic()
        with self._lock:
            # Concurrent lookups may overdraw the bucket, by no more than what is refilled in a minute.
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
    """Lookups of API keys and tokens in the database, of which each client address may fail only a few. Thread-safe.

    A secret that was accepted before is always looked up.
    """

    def __init__(self, per_minute: int) -> None:
        self._failed_attempts = FailedAttemptLimiter(per_minute)
        self._lock = threading.Lock()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    def look_up(
        self, secret: str, find: Callable[[], Found], client_address: str | None, *, untrusted_proxy: bool = False
    ) -> Found:
        """What `find` returns. RateLimited, without calling it, when too many attempts of the address failed.

        `find` raises AuthenticationFailed or PermissionDenied for an invalid secret. `untrusted_proxy` as in
        `FailedAttemptLimiter.check`.
        """
        digest = hashlib.sha256(secret.encode()).digest()
        if digest not in self._accepted:
            self._failed_attempts.check(client_address, untrusted_proxy=untrusted_proxy)
        try:
            found = find()
        except (AuthenticationFailed, PermissionDenied) as error:
            self._failed_attempts.record_failure(client_address, untrusted_proxy=untrusted_proxy)
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
