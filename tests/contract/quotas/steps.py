"""A store of quotas over a capacity port that notes what is put into effect."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import update

from llmariner.errors import Conflict
from llmariner.platform.capacity import Claim, OrganizationLimits, QuotaLimit, Use
from llmariner.platform.database import Database
from llmariner.quotas.quota import Subject
from llmariner.quotas.quotas import Quotas
from llmariner.quotas.tables import quota_revisions
from llmariner.tenancy.principal import KeyOwner

from ..team import Team

__all__ = ["NotedCapacity", "emit_quota_events"]


class NotedCapacity:
    """See `platform.capacity.Capacity`. `conflict`: what `check` raises, `broken`: what `apply` raises, if set.

    `meanwhile`: what somebody else does once, before the next `apply` ends. `remains`: something of former quotas is left.
    """

    def __init__(self) -> None:
        self.conflict = self.broken = ""
        self.claims: list[Claim] = []
        self.applied: list[OrganizationLimits] = []
        self.meanwhile: Callable[[], None] | None = None
        self.remains = False

    def use(self) -> Use:
        return Use({}, self.claims)

    def check(self, quotas: OrganizationLimits, changed: Collection[str]) -> None:
        if self.conflict:
            raise Conflict(self.conflict)

    def apply(self, quotas: OrganizationLimits) -> bool:
        if self.broken:
            raise Conflict(self.broken)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        self.applied.append(quotas)
        return not self.remains


def emit_quota_events(database: Database, owner: KeyOwner) -> None:
    """Set the quota of a project and delete it."""
    quotas, subject = Quotas(database, NotedCapacity), Subject(owner.organization_id, owner.project_id)
    admin = Team(database, owner).admin
    quotas.put(admin, subject, {"gpu": QuotaLimit(4, 2)}, operator=True)
    quotas.remove(admin, subject, operator=True)
    with database.write() as session:
        session.run(update(quota_revisions).values(applied_revision=None))
    quotas.request_settlements()
