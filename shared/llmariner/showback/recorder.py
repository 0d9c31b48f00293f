"""Records the allocations of one machine as they begin and end, and the processor time that they use.

Who reports them does not wait.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from llmariner.errors import PlatformError
from llmariner.platform.capacity import Claim, Kind
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.showback.machine_use import Workload
from llmariner.showback.workloads import job_of

__all__ = ["AllocationRecorder"]

_log = logging.getLogger(__name__)
_SEEN_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 10.0


class AllocationRecorder:
    """Writes in a thread of its own, in order, and again after a failure of the database. Safe in any thread.

    `take_times`: the processor time of each workload since it was last called, in seconds. `look`: called every ten seconds.
    """

    def __init__(
        self,
        store: Allocations,
        clock: Callable[[], float] = time.time,
        *,
        take_times: Callable[[], Mapping[str, float]] = dict,
        add_times: Callable[[Mapping[Workload, float], float, float], None] = lambda _used, _start, _end: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._take_times = take_times
        self._add_times = add_times
        self._look = look
        self._taken_at = clock()
        self._ids: dict[str, str] = {}
        self._workloads: dict[str, Workload] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        # What an earlier process of this machine held ended with it.
        self._queue.put(partial(store.end_when_last_seen, ""))
        self._thread = threading.Thread(target=self._run, name="allocations", daemon=True)
        self._thread.start()

    def record(self, workload_id: str, claim: Claim | None) -> None:
        """A workload got what it claims, or (None) gave it back. The time of the call is the time that counts."""
        now = round(self._clock() * 1000)
        if claim is None:
            with self._lock:
                ended = self._ids.pop(workload_id, None)
            if ended is not None:
                self._queue.put(partial(self._store.end, ended, now))
                self._queue.put(self._add_used)
            return
        kind, name = ("model", workload_id) if claim.kind is Kind.MODELS else job_of(workload_id)
        id_ = f"{kind}/{workload_id}/{now}"
        with self._lock:
            self._ids[workload_id] = id_
            self._workloads[workload_id] = Workload(kind, name, claim.project_id)
        new = Allocation(id_, kind, name, claim.project_id, dict(claim.amounts), now)
        self._queue.put(partial(self._store.begin, new))

    def close(self) -> None:
        """End what is open, and wait until it is written, for a while."""
        for workload_id in list(self._ids):
            self.record(workload_id, None)
        self._queue.put(None)
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        seen = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                if (write := self._queue.get(timeout=_SEEN_SECONDS)) is None:
                    return
                self._write(write)
            if time.monotonic() - seen >= _SEEN_SECONDS:
                self._write(self._see)
                self._write(self._add_used)
                self._write(self._look)
                seen = time.monotonic()

    def _add_used(self) -> None:
        """Add the processor time that was used since the last call."""
        start, self._taken_at = self._taken_at, self._clock()
        with self._lock:
            workloads = dict(self._workloads)
            self._workloads = {id_: each for id_, each in workloads.items() if id_ in self._ids}
        used: dict[Workload, float] = {}
        for id_, seconds in self._take_times().items():
            if (workload := workloads.get(id_)) is not None:
                used[workload] = used.get(workload, 0.0) + seconds
        if used:
            self._write(partial(self._add_times, used, start, self._taken_at))

    def _see(self) -> None:
        self._store.see("", round(self._clock() * 1000))

    def _write(self, write: Callable[[], None]) -> None:
        while True:
            try:
                write()
                return
            except PlatformError as error:
                _log.warning("an allocation could not be recorded yet: %s", error)
                if self._closing.wait(_RETRY_SECONDS):
                    return
            except Exception:  # one that can't be written must not hold up those after it
                _log.exception("an allocation could not be recorded")
                return
