"""How many bytes of request bodies one process holds: all together, and of each tenant.

A body is kept from its first byte until an engine begins to answer, so that the request may be tried once more; requests
that wait for a sleeping model can be many. What a body declares as its length counts before it is read.

Where others hold some, too, a tenant may hold up to twice what is left: however many fill it, there is room for a small one.
"""

from __future__ import annotations

from llmariner.errors import RoomFull

__all__ = ["BodyBudget"]

_TENANT_SHARE = 2


class BodyBudget:
    """`most` bytes in this process, `most_of_tenant` of these for one tenant."""

    def __init__(self, max_bytes: int, max_bytes_per_tenant: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_tenant = max_bytes_per_tenant
        self._held_by_tenant: dict[str, int] = {}
        self.held = 0

    def reserve(self, tenant: str, size: int) -> None:
        """Account for so many bytes more; to be given back with `give_back`. RoomFull when there is no room for them."""
        held_by_tenant = self._held_by_tenant.get(tenant, 0)
        available = self._max_bytes - self.held - size
        full = available < 0 or held_by_tenant + size > self._max_bytes_per_tenant
        if full or (self.held > held_by_tenant and held_by_tenant + size > _TENANT_SHARE * available):
            raise RoomFull(
                f"Requests that hold {self.held} bytes wait here already, {held_by_tenant} bytes of them yours; this one has {size} "
                "more. Try again shortly, with fewer large requests at once.",
                headers={"retry-after": "5"},
            )
        self.held += size
        self._held_by_tenant[tenant] = held_by_tenant + size

    def release(self, tenant: str, size: int) -> None:
        """Those bytes are no longer held."""
        self.held -= size
        available = self._held_by_tenant[tenant] - size
        if available:
            self._held_by_tenant[tenant] = available
        else:
            del self._held_by_tenant[tenant]
