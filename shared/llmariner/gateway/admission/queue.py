"""Admission to one engine, and the room where requests wait for it (contract: docs/waiting-room.md).

A request enters at once when the engine is ready and has a place. Else it waits: first come, first served within a
tenant; among tenants the one with the fewest requests running is next, in turn where that is equal, so that none starves
another. While several tenants use a model, none of them holds its last places. Places are given out as the engine has room
for them, never to all at once. The room is bounded per model and per tenant.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque

from llmariner.errors import PlatformError, WaitingRoomFull
from llmariner.gateway.control_plane.port import ModelState

__all__ = ["AdmissionQueue", "Waiter"]

# Of a model's places, the part that one tenant leaves to others; none where a place is a large part of them.
_RESERVED = 8
_LEAST_CAPACITY = 4
# How long a model counts as shared after requests of different tenants came for it.
_SHARED_SECONDS = 600.0


class Waiter:
    """A request in the room. `admitted` completes with its admission, or with the error that it is told."""

    __slots__ = ("admitted", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class AdmissionQueue:
    """The admission of one engine in this process."""

    def __init__(self, per_model: int, per_tenant: int) -> None:
        self._max_per_model = per_model
        self._max_per_tenant = per_tenant
        self._capacity = 0
        self._engine_waiting = 0
        self._queues: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self._running_by_tenant: dict[str, int] = {}
        self._latest_tenant: str | None = None
        self._shared_until = 0.0
        self.running = 0
        self.waiting = 0
        self.ready_at = math.inf
        """Since when the engine is ready, on the monotonic clock; infinite: it is not."""

    def update(self, state: ModelState) -> None:
        """Learn how the engine is, and let in whom it has room for."""
        if not state.ready:
            self.ready_at = math.inf
        elif self.ready_at == math.inf:
            self.ready_at = time.monotonic()
        self._capacity = state.capacity if state.ready else 0
        self._engine_waiting = state.engine_waiting
        self._admit_waiting()

    def try_admit(self, tenant: str) -> bool:
        """Take a place if there is one for this tenant and nobody waits for it."""
        if tenant != self._latest_tenant:
            self._track_sharing(tenant)
        if self.waiting == 0 and self._has_free_slot() and self._may_take_slot(tenant):
            self._take_slot(tenant)
            return True
        return False

    def enqueue(self, tenant: str, max_waiting: int | None = None) -> Waiter:
        """Wait for a place. WaitingRoomFull when it, or the tenant's share, is full; `share` None: the usual one."""
        if tenant != self._latest_tenant:
            self._track_sharing(tenant)
        queue = self._queues.get(tenant)
        most = self._max_per_tenant if max_waiting is None else max_waiting
        if self.waiting >= self._max_per_model or (len(queue) if queue else 0) >= most:
            raise WaitingRoomFull(
                f"{self.waiting} requests wait for this model already, {len(queue) if queue else 0} of them yours. "
                "Try again shortly.",
                headers={"retry-after": "5"},
            )
        if queue is None:
            queue = self._queues[tenant] = deque()
        waiter = Waiter(tenant)
        queue.append(waiter)
        self.waiting += 1
        self._admit_waiting()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Stop waiting. If a place was given meanwhile, it goes to the next."""
        if waiter.admitted.done():
            if not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self.release_slot(waiter.tenant)
            return
        waiter.admitted.cancel()
        queue = self._queues[waiter.tenant]
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self._queues[waiter.tenant]

    def release_slot(self, tenant: str) -> None:
        """Give a place of this tenant back."""
        self.running -= 1
        if self._running_by_tenant[tenant] == 1:
            del self._running_by_tenant[tenant]
        else:
            self._running_by_tenant[tenant] -= 1
        self._admit_waiting()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is in it."""
        return not self.running and not self.waiting

    def fail_all(self, error: PlatformError) -> None:
        """Tell everybody in the room why the model does not come."""
        queues, self._queues = self._queues, OrderedDict()
        self.waiting = 0
        for queue in queues.values():
            for waiter in queue:
                waiter.admitted.set_exception(error)

    def _track_sharing(self, tenant: str) -> None:
        """Remember that tenants take turns at this model."""
        if self._latest_tenant is not None:
            self._shared_until = time.monotonic() + _SHARED_SECONDS
        self._latest_tenant = tenant

    def _take_slot(self, tenant: str) -> None:
        self.running += 1
        self._running_by_tenant[tenant] = self._running_by_tenant.get(tenant, 0) + 1

    def _has_free_slot(self) -> bool:
        # What waits inside the engine was let in by others: leave it to settle, but never stand still for it.
        return self.running < self._capacity and (self._engine_waiting == 0 or self.running == 0)

    def _may_take_slot(self, tenant: str) -> bool:
        """Whether a tenant may take a free place, or must leave it to others who use this model."""
        reserved = max(1, self._capacity // _RESERVED) if self._capacity >= _LEAST_CAPACITY else 0
        own = self._running_by_tenant.get(tenant, 0)
        return own < self._capacity - reserved or time.monotonic() > self._shared_until

    def _next_tenant(self) -> str | None:
        """The tenant whose turn it is; None: nobody who waits may have a place."""
        running = self._running_by_tenant
        tenant = min(self._queues, key=lambda each: running.get(each, 0))  # of equals the first in turn
        return tenant if self._may_take_slot(tenant) else None

    def _admit_waiting(self) -> None:
        while self._queues and self._has_free_slot() and (tenant := self._next_tenant()) is not None:
            queue = self._queues.pop(tenant)
            waiter = queue.popleft()
            if queue:
                self._queues[tenant] = queue  # to the end of the line of tenants
            self.waiting -= 1
            self._take_slot(tenant)
            waiter.admitted.set_result(None)
