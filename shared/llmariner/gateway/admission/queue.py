"""Admission to one model's engines, and the queue of waiting requests, the waiting room.

The contract is in docs/waiting-room.md. A request is admitted at once when the model is ready and has a free slot.
Otherwise it waits: first in, first out within a tenant; among tenants, the one with the fewest running requests is
next, round-robin on ties, so that no tenant starves. While several tenants use a model, no tenant may occupy its last
slots. Requests are admitted as slots become free. The queue is bounded per model and per tenant.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from heapq import heapify, heappop, heappush

from llmariner.errors import PlatformError, WaitingRoomFull
from llmariner.gateway.control_plane.port import ModelState

__all__ = ["AdmissionQueue", "Waiter"]

# One in that many slots stays free of the same tenant, except at small capacities, where a slot is a large part.
_RESERVED_FRACTION = 8
_MIN_SHARED_CAPACITY = 4
# Outdated entries of the order of tenants are removed at so many for each tenant.
_MAX_ENTRIES, _MIN_ENTRIES = 4, 64
# How long a model counts as shared after requests of different tenants.
_SHARED_SECONDS = 600.0


class Waiter:
    """A waiting request. `admitted` resolves when it is admitted; its exception is the error of the request."""

    __slots__ = ("admitted", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class AdmissionQueue:
    """The admission to one model in this gateway instance. `running` and `waiting`: numbers of requests."""

    def __init__(self, per_model: int, per_tenant: int) -> None:
        self._max_per_model = per_model
        self._max_per_tenant = per_tenant
        self._capacity = self._tenant_capacity = 0
        self._engine_waiting = 0
        self._queues: dict[str, deque[Waiter]] = {}
        # The turn of each tenant that waits, and a heap of (running requests, turn, tenant) with an entry as they are now
        # for each. Entries of former states stay until they come first.
        self._turns: dict[str, int] = {}
        self._last_turn = 0
        self._order: list[tuple[int, int, str]] = []
        self._running_by_tenant: dict[str, int] = {}
        self._latest_tenant: str | None = None
        self._shared_until = 0.0
        self.running = 0
        self.waiting = 0
        self.ready_at = math.inf
        """When the model became ready, in monotonic seconds; infinite: it is not ready."""

    def update(self, state: ModelState) -> None:
        """Apply a new state of the model, and admit waiting requests to free slots."""
        if not state.ready:
            self.ready_at = math.inf
        elif self.ready_at == math.inf:
            self.ready_at = time.monotonic()
        self._capacity = capacity = state.capacity if state.ready else 0
        reserved = max(1, capacity // _RESERVED_FRACTION) if capacity >= _MIN_SHARED_CAPACITY else 0
        self._tenant_capacity = capacity - reserved
        self._engine_waiting = state.engine_waiting
        self._admit_waiting()

    def try_admit(self, tenant: str) -> bool:
        """Take a slot if one is free for this tenant and no request waits. The caller returns it by `release_slot`."""
        if tenant != self._latest_tenant:
            self._track_sharing(tenant)
        if self.waiting == 0 and self._has_free_slot() and self._may_take_slot(tenant):
            self._take_slot(tenant)
            return True
        return False

    def enqueue(self, tenant: str, max_waiting: int | None = None) -> Waiter:
        """Queue a request.

        Raises WaitingRoomFull at the limit of the model or the tenant; `max_waiting` None: the default one.
        """
        if tenant != self._latest_tenant:
            self._track_sharing(tenant)
        queue = self._queues.get(tenant)
        limit = self._max_per_tenant if max_waiting is None else max_waiting
        if self.waiting >= self._max_per_model or (len(queue) if queue else 0) >= limit:
            raise WaitingRoomFull(
                f"{self.waiting} requests wait for this model already, {len(queue) if queue else 0} of them yours. "
                "Try again shortly.",
                headers={"retry-after": "5"},
            )
        if queue is None:
            queue = self._queues[tenant] = deque()
            self._take_turn(tenant)
        waiter = Waiter(tenant)
        queue.append(waiter)
        self.waiting += 1
        self._admit_waiting()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Remove a request from the queue. If it was admitted in the meantime, its slot is released."""
        if waiter.admitted.done():
            if not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self.release_slot(waiter.tenant)
            return
        waiter.admitted.cancel()
        queue = self._queues[waiter.tenant]
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self._queues[waiter.tenant], self._turns[waiter.tenant]

    def release_slot(self, tenant: str) -> None:
        """Return a slot of this tenant, and admit the next request."""
        self.running -= 1
        if self._running_by_tenant[tenant] == 1:
            del self._running_by_tenant[tenant]
        else:
            self._running_by_tenant[tenant] -= 1
        if tenant in self._turns:
            self._note_order(tenant)
        self._admit_waiting()

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not self.running and not self.waiting

    def fail_all(self, error: PlatformError) -> None:
        """Fail all waiting requests with an error."""
        queues, self._queues = self._queues, {}
        self._turns, self._order = {}, []
        self.waiting = 0
        for queue in queues.values():
            for waiter in queue:
                waiter.admitted.set_exception(error)

    def _track_sharing(self, tenant: str) -> None:
        """Record that several tenants use this model."""
        if self._latest_tenant is not None:
            self._shared_until = time.monotonic() + _SHARED_SECONDS
        self._latest_tenant = tenant

    def _take_slot(self, tenant: str) -> None:
        self.running += 1
        self._running_by_tenant[tenant] = self._running_by_tenant.get(tenant, 0) + 1

    def _has_free_slot(self) -> bool:
        # Other gateway instances admitted what waits inside the engine: let that queue drain, but keep one request running.
        return self.running < self._capacity and (self._engine_waiting == 0 or self.running == 0)

    def _may_take_slot(self, tenant: str) -> bool:
        """Whether a tenant may take a free slot, or it is reserved for other tenants of this model."""
        own = self._running_by_tenant.get(tenant, 0)
        return own < self._tenant_capacity or time.monotonic() > self._shared_until

    def _take_turn(self, tenant: str) -> None:
        """Put a tenant that waits to the end of the round-robin order."""
        self._last_turn += 1
        self._turns[tenant] = self._last_turn
        self._note_order(tenant)

    def _note_order(self, tenant: str) -> None:
        """Add the entry of a tenant that waits, whose turn or number of running requests has changed."""
        heappush(self._order, self._entry(tenant))
        if len(self._order) > _MAX_ENTRIES * len(self._turns) + _MIN_ENTRIES:
            self._order = [self._entry(each) for each in self._turns]
            heapify(self._order)

    def _entry(self, tenant: str) -> tuple[int, int, str]:
        return self._running_by_tenant.get(tenant, 0), self._turns[tenant], tenant

    def _next_tenant(self) -> str | None:
        """The tenant to admit next; None: no waiting tenant may take a slot.

        It takes the time of a logarithm: a thousand tenants may wait for a model that becomes ready.
        """
        order, running = self._order, self._running_by_tenant
        while True:
            own, turn, tenant = order[0]
            if self._turns.get(tenant) == turn and running.get(tenant, 0) == own:
                return tenant if self._may_take_slot(tenant) else None
            heappop(order)

    def _admit_waiting(self) -> None:
        while self._queues and self._has_free_slot() and (tenant := self._next_tenant()) is not None:
            queue = self._queues[tenant]
            waiter = queue.popleft()
            self.waiting -= 1
            self._take_slot(tenant)
            if queue:
                self._take_turn(tenant)
            else:
                del self._queues[tenant], self._turns[tenant]
            waiter.admitted.set_result(None)
