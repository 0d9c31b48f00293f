"""What a process remembers of links to files: how often each is used, how many uploads arrive by it, and audited uses."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from llmariner.errors import RateLimited

__all__ = ["LinkUses"]

_MAX_REMEMBERED = 10_000
_AUDITED_SECONDS = 3600.0
# More than one: a client that lost its connection sends again before the server knows.
_UPLOADS_AT_ONCE = 4
_RETRY_AFTER_SECONDS = 5


class LinkUses:
    """A token bucket for each link, and the client networks that used it. Thread-safe; its memory is bounded.

    `per_minute`: requests of one link in this process, and the capacity of its bucket; 0: no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._audited: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._uploads: Counter[str] = Counter()

    def admit(self, link_id: str) -> None:
        """Count a request. Raises RateLimited while the bucket of the link is empty."""
        if not self._per_minute:
            return
        now = time.monotonic()
        with self._lock:
            tokens, at = self._buckets.pop(link_id, (float(self._per_minute), now))
            tokens = min(float(self._per_minute), tokens + (now - at) * self._per_minute / 60)
            self._buckets[link_id] = (tokens - 1 if tokens >= 1 else tokens, now)
            if len(self._buckets) > _MAX_REMEMBERED:
                self._buckets.popitem(last=False)
        if tokens < 1:
            seconds = int((1 - tokens) * 60 / self._per_minute) + 1
            raise RateLimited(
                f"This link is used more than {self._per_minute} times a minute. Try again in {seconds} s.",
                code="link_rate_limit_exceeded",
                headers={"retry-after": str(seconds)},
            )

    @contextmanager
    def uploading(self, link_id: str) -> Iterator[None]:
        """Count an upload by a link until the end of the context. Raises RateLimited while others of it are under way.

        Each counts against the quota of the project and may fill the disk, and only one of them makes a file.
        """
        with self._lock:
            if self._uploads[link_id] >= _UPLOADS_AT_ONCE:
                raise RateLimited(
                    f"{_UPLOADS_AT_ONCE} uploads by this link are under way. Try again in {_RETRY_AFTER_SECONDS} s.",
                    code="link_in_use",
                    headers={"retry-after": str(_RETRY_AFTER_SECONDS)},
                )
            self._uploads[link_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._uploads[link_id] -= 1
                if not self._uploads[link_id]:
                    del self._uploads[link_id]

    def is_first(self, link_id: str, network: str) -> bool:
        """Whether the network has not used the link for an hour, as far as this process remembers; it does from now on.

        A download in ranges is thus one entry of the audit log, and the holder of a link cannot fill the log.
        """
        now, use = time.monotonic(), (link_id, network)
        with self._lock:
            if now - self._audited.get(use, -_AUDITED_SECONDS) < _AUDITED_SECONDS:
                return False
            self._audited[use] = now
            self._audited.move_to_end(use)
            if len(self._audited) > _MAX_REMEMBERED:
                self._audited.popitem(last=False)
        return True

    def forget(self, link_id: str, network: str) -> None:
        """Undo `is_first`: the use is not in the log."""
        with self._lock:
            self._audited.pop((link_id, network), None)
