"""A capacity port whose use a test sets, and which notes what is put into effect."""

from __future__ import annotations

from collections.abc import Collection

from llmariner.errors import Conflict
from llmariner.platform.capacity import Claim, OrganizationLimits, Use

__all__ = ["PlannedCapacity"]


class PlannedCapacity:
    """See `platform.capacity.Capacity`. `conflict`: what `check` and `apply` raise, if set."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.conflict = ""
        self.applied: dict[str, OrganizationLimits] = {}
        """By organization, what was applied last."""

    def use(self) -> Use:
        return Use({"gpu": 8, "cpu": 64_000, "memory": 2**38}, self.claims)

    def check(self, quotas: OrganizationLimits, changed: Collection[str]) -> None:
        if self.conflict:
            raise Conflict(self.conflict)

    def apply(self, quotas: OrganizationLimits) -> bool:
        self.check(quotas, ())
        self.applied[quotas.organization_id] = quotas
        return True
