"""How many bytes of request bodies one process holds: all together, and of each tenant.

A body is kept from its first byte until an engine begins to answer, so that the request may be tried once more; requests
that wait for a sleeping model can be many. What a body declares as its length counts before it is read.

Where others hold some, too, a tenant may hold up to twice what is left: however many fill it, there is room for a small one.
"""

from __future__ import annotations

from llmariner.errors import RoomFull

__all__ = ["BodyBudget"]

_SHARE = 2


class BodyBudget:
    """`most` bytes in this process, `most_of_tenant` of these for one tenant."""

    def __init__(self, most: int, most_of_tenant: int) -> None:
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._of_tenant: dict[str, int] = {}
        self.held = 0

    def take(self, tenant: str, size: int) -> None:
        """Account for so many bytes more; to be given back with `give_back`. RoomFull when there is no room for them."""
        own = self._of_tenant.get(tenant, 0)
        left = self._most - self.held - size
        full = left < 0 or own + size > self._most_of_tenant
        if full or (self.held > own and own + size > _SHARE * left):
            raise RoomFull(
                f"Requests that hold {self.held} bytes wait here already, {own} bytes of them yours; this one has {size} "
                "more. Try again shortly, with fewer large requests at once.",
                headers={"retry-after": "5"},
            )
        self.held += size
        self._of_tenant[tenant] = own + size

    def give_back(self, tenant: str, size: int) -> None:
        """Those bytes are no longer held."""
        self.held -= size
        left = self._of_tenant[tenant] - size
        if left:
            self._of_tenant[tenant] = left
        else:
            del self._of_tenant[tenant]
