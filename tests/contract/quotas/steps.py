"""A store of quotas over a capacity port that notes what is put into effect."""

from __future__ import annotations

from collections.abc import Mapping

from llmariner.errors import Conflict
from llmariner.platform.capacity import Claim, QuotaLimit, QuotaSubject, Use
from llmariner.platform.database import Database
from llmariner.quotas.quota import Subject
from llmariner.quotas.quotas import Quotas
from llmariner.tenancy.principal import KeyOwner

from ..team import Team

__all__ = ["NotedCapacity", "emit_quota_events"]


class NotedCapacity:
    """See `platform.capacity.Capacity`. `conflict`: what `check` raises, `broken`: what `apply` raises, if set."""

    def __init__(self) -> None:
        self.conflict = self.broken = ""
        self.claims: list[Claim] = []
        self.applied: list[tuple[str | None, Mapping[str, QuotaLimit] | None]] = []

    def use(self) -> Use:
        return Use({}, self.claims)

    def check(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit]) -> None:
        if self.conflict:
            raise Conflict(self.conflict)

    def apply(self, subject: QuotaSubject, limits: Mapping[str, QuotaLimit] | None) -> None:
        if self.broken:
            raise Conflict(self.broken)
        self.applied.append((subject.project_id, limits))


def emit_quota_events(database: Database, owner: KeyOwner) -> None:
    """Set the quota of a project and delete it."""
    quotas, subject = Quotas(database, NotedCapacity), Subject(owner.organization_id, owner.project_id)
    admin = Team(database, owner).admin
    quotas.put(admin, subject, {"gpu": QuotaLimit(4, 2)}, operator=True)
    quotas.remove(admin, subject)
