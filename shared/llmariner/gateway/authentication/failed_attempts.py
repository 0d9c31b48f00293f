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

from llmariner.client_networks import site
from llmariner.errors import AuthenticationFailed, PermissionDenied, RateLimited

__all__ = ["FailedAuthentications", "SecretLookups"]

Found = TypeVar("Found")

_MOST_SOURCES = 10_000
_MOST_ACCEPTED = 10_000
# An address that speaks for others, none of which can be told apart.
_OF_FORWARDER = 10


class FailedAuthentications:
    """A token bucket for each source. `per_minute`: of one source, in this process; as many at once after a quiet minute.

    `what` is guessed, in the plural. Safe to share between threads.
    """

    def __init__(self, per_minute: int, what: str = "API keys") -> None:
        self._per_minute = per_minute
        self._what = what
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()

    def check(self, source: str | None, *, forwarding: bool = False) -> None:
        """RateLimited when too many failed from there of late. `forwarding`: it speaks for callers that nobody can tell."""
        key = (site(source), forwarding)
        if key not in self._buckets:
            return
        left = self._left(key, time.monotonic())
        if left < 1:
            wait = (1 - left) * 60 / self._most(key)
            raise RateLimited(
                f"Too many unknown {self._what} came from {source or 'your address'}: others are not looked up for a "
                f"while. Correct yours, and try again in {wait:.0f} s.",
                code="too_many_failed_authentications",
                headers={"retry-after": str(int(wait) + 1)},
            )

    def note(self, source: str | None, *, forwarding: bool = False) -> None:
        """One failed."""
        key, now = (site(source), forwarding), time.monotonic()
        with self._lock:
            # Those that were looked up at the same time may overdraw it, by no more than what comes back in a minute.
            self._buckets[key] = (max(self._left(key, now) - 1, -float(self._most(key))), now)
            self._buckets.move_to_end(key)
            if len(self._buckets) > _MOST_SOURCES:
                self._buckets.popitem(last=False)

    def _left(self, key: tuple[str, bool], now: float) -> float:
        most = self._most(key)
        left, at = self._buckets.get(key, (most, now))
        return min(most, left + (now - at) * most / 60)

    def _most(self, key: tuple[str, bool]) -> int:
        return self._per_minute * _OF_FORWARDER if key[1] else self._per_minute


class SecretLookups:
    """API keys and tokens looked up in the database, few of one source in vain. Safe to share between threads.

    One that was accepted here is looked up whatever else its source sends.
    """

    def __init__(self, per_minute: int) -> None:
        self._failed = FailedAuthentications(per_minute)
        self._lock = threading.Lock()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    def look_up(self, secret: str, find: Callable[[], Found], source: str | None, *, forwarding: bool = False) -> Found:
        """What `find` returns. RateLimited, without asking it, when too many failed from there of late.

        `find` raises AuthenticationFailed, or PermissionDenied, for a secret that is no good. `forwarding` as in
        `FailedAuthentications.check`.
        """
        mark = hashlib.sha256(secret.encode()).digest()
        if mark not in self._accepted:
            self._failed.check(source, forwarding=forwarding)
        try:
            found = find()
        except (AuthenticationFailed, PermissionDenied) as error:
            self._failed.note(source, forwarding=forwarding)
            if isinstance(error, AuthenticationFailed):
                with self._lock:
                    self._accepted.pop(mark, None)
            raise
        with self._lock:
            self._accepted[mark] = None
            self._accepted.move_to_end(mark)
            if len(self._accepted) > _MOST_ACCEPTED:
                self._accepted.popitem(last=False)
        return found
