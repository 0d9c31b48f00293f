"""A capacity port whose use a test sets, and which notes what is put into effect."""

from __future__ import annotations

from collections.abc import Mapping

from llmariner.errors import Conflict
from llmariner.platform.capacity import Claim, QuotaLimit, QuotaSubject, Use

__all__ = ["PlannedCapacity"]


class PlannedCapacity:
    """See `platform.capacity.Capacity`. `conflict`: what `check` and `apply` raise, if set."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.conflict = ""
        self.applied: dict[str, Mapping[str, QuotaLimit] | None] = {}

    def use(self) -> Use:
        return Use({"gpu": 8, "cpu": 64_000, "memory": 2**38}, self.claims)

    def check(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit]) -> None:
        if self.conflict:
            raise Conflict(self.conflict)

    def apply(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit] | None) -> None:
        self.check(subject, {})
        self.applied[subject.project_id or subject.organization_id] = limits
