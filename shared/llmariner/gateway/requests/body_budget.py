"""How many bytes of request bodies a gateway instance holds in memory, in total and per tenant.

A body is kept from its first byte until an engine begins to answer, so that the request can be retried; many requests can
wait for a sleeping model. A declared Content-Length is reserved before the body is read.

When several tenants hold bytes, one tenant may hold at most twice the bytes that are still available, so that a small
request of another tenant always fits.
"""

from __future__ import annotations

from llmariner.errors import WaitingRoomFull

__all__ = ["BodyBudget"]

_TENANT_SHARE = 2


class BodyBudget:
    """At most `max_bytes`, and `max_bytes_per_tenant` of these for one tenant. `held`: bytes reserved now."""

    def __init__(self, max_bytes: int, max_bytes_per_tenant: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_tenant = max_bytes_per_tenant
        # Up to so many bytes in all, no tenant can be over a limit.
        self._ample = min(max_bytes_per_tenant, max_bytes * _TENANT_SHARE // (_TENANT_SHARE + 1))
        self._held_by_tenant: dict[str, int] = {}
        self.held = 0

    def reserve(self, tenant: str, size: int) -> None:
        """Reserve `size` more bytes; the caller returns them with `release`. WaitingRoomFull when they do not fit."""
        held = self.held + size
        if held > self._ample:
            self._check(tenant, size)
        self.held = held
        self._held_by_tenant[tenant] = self._held_by_tenant.get(tenant, 0) + size

    def _check(self, tenant: str, size: int) -> None:
        held_by_tenant = self._held_by_tenant.get(tenant, 0)
        available = self._max_bytes - self.held - size
        full = available < 0 or held_by_tenant + size > self._max_bytes_per_tenant
        if full or (self.held > held_by_tenant and held_by_tenant + size > _TENANT_SHARE * available):
            raise WaitingRoomFull(
                f"Requests that hold {self.held} bytes wait here already, {held_by_tenant} bytes of them yours; "
                f"this one has {size} more. Try again shortly, with fewer large requests at once.",
                headers={"retry-after": "5"},
            )

    def release(self, tenant: str, size: int) -> None:
        """Return bytes that were reserved."""
        self.held -= size
        remaining = self._held_by_tenant[tenant] - size
        if remaining:
            self._held_by_tenant[tenant] = remaining
        else:
            del self._held_by_tenant[tenant]
