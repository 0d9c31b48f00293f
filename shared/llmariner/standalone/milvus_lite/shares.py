"""Shares of a server's work among tenants."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, deque
from collections.abc import Iterator

from llmariner.standalone.milvus_lite.turns import Busy

__all__ = ["Shares"]


class Shares:
    """Lets a number of callers work at once. Of those that wait, one of the tenant that has least goes first.

    So a tenant waits for one piece of another's work, however many of them wait. Among tenants that have equally much, the
    one goes first that has waited longest since its last call began or ended; calls of one tenant are in their order.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._working: Counter[str] = Counter()
        self._waiting: dict[str, deque[object]] = {}
        self._clock = itertools.count()
        self._since: dict[str, int] = {}

    @contextlib.contextmanager
    def of(self, tenant: str, seconds: float) -> Iterator[None]:
        """Wait for a share of the work, and have it. Raises Busy if it does not come within the seconds."""
        with self._changed:
            self._wait(tenant, seconds)
        try:
            yield
        finally:
            with self._changed:
                self._working[tenant] -= 1
                self._since[tenant] = next(self._clock)
                self._wake(tenant)

    def _wait(self, tenant: str, seconds: float) -> None:
        call = object()
        calls = self._waiting.setdefault(tenant, deque())
        calls.append(call)
        self._since.setdefault(tenant, next(self._clock))
        try:
            if not self._changed.wait_for(lambda: self._is_next(call), seconds):
                raise Busy
            self._working[tenant] += 1
            self._since[tenant] = next(self._clock)
        finally:
            calls.remove(call)
            if not calls:
                del self._waiting[tenant]
            self._wake(tenant)

    def _is_next(self, call: object) -> bool:
        if self._working.total() >= self._most:
            return False
        tenant = min(self._waiting, key=lambda each: (self._working[each], self._since[each]))
        return self._waiting[tenant][0] is call

    def _wake(self, tenant: str) -> None:
        """Let those that wait look, and keep nothing of a tenant that neither works nor waits."""
        if not self._working[tenant]:
            del self._working[tenant]
            if tenant not in self._waiting:
                del self._since[tenant]
        self._changed.notify_all()
