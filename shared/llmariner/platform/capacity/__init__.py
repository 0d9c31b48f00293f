"""The capacity port: what models, jobs and notebooks hold and wait for, of GPUs, CPU and memory, and what holds them back.

Adapters: `standalone.capacity` (the budget of one machine), `kueue` (the ClusterQueues of a cluster). Amounts are whole
numbers: GPUs, thousandths of a core, bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

__all__ = [
    "RESOURCES",
    "Amounts",
    "Capacity",
    "Claim",
    "Excess",
    "Kind",
    "OrganizationLimits",
    "QuotaLimit",
    "QuotaRule",
    "Use",
    "total",
]

RESOURCES = ("gpu", "cpu", "memory")

Amounts = Mapping[str, int]
"""Resource → amount; an absent one is 0."""


class Kind(StrEnum):
    """What holds capacity."""

    MODELS = "models"
    JOBS = "jobs"
    NOTEBOOKS = "notebooks"


@dataclass(frozen=True)
class Claim:
    """One workload that holds capacity or waits for it. `project_id` None: it belongs to all projects."""

    project_id: str | None
    kind: Kind
    amounts: Amounts
    waits: bool = False


@dataclass(frozen=True)
class Use:
    """The claims of a moment. `pool`: what there is for all projects together."""

    pool: Amounts
    claims: Sequence[Claim] = ()


@dataclass(frozen=True)
class QuotaLimit:
    """Of one resource: what is a project's own, and how much more it may borrow of the pool (None: all that is free)."""

    nominal: int
    borrowing: int | None = 0

    @property
    def most(self) -> int | None:
        """What may be in use at a time; None: no limit."""
        return None if self.borrowing is None else self.nominal + self.borrowing


@dataclass(frozen=True)
class QuotaRule:
    """A quota that holds for some projects together. `name`: "its project" or "its organization"."""

    name: str
    projects: frozenset[str]
    limits: Mapping[str, QuotaLimit] = field(default_factory=dict)

    def excess(self, claims: Sequence[Claim], needed: Amounts) -> Excess | None:
        """What keeps a claim of these projects from being admitted beside others that hold capacity; None: nothing."""
        used = total(each for each in claims if each.project_id in self.projects and not each.waits)
        for resource, limit in self.limits.items():
            more = needed.get(resource, 0)
            if more and limit.most is not None and used[resource] + more > limit.most:
                return Excess(self, resource, used[resource], more, limit.most)
        return None


@dataclass(frozen=True)
class Excess:
    """A claim that does not fit a quota."""

    rule: QuotaRule
    resource: str
    used: int
    needed: int
    most: int

    @property
    def never_fits(self) -> bool:
        """Whether it needs more than the whole quota."""
        return self.needed > self.most

    def __str__(self) -> str:
        needed, most = _amount(self.resource, self.needed), _amount(self.resource, self.most)
        if self.never_fits:
            return f"It needs {needed}, and the quota of {self.rule.name} is {most}."
        used = _amount(self.resource, self.used)
        return f"It waits for quota: {self.rule.name} uses {used} of {most}, and this needs {needed}."


@dataclass(frozen=True)
class OrganizationLimits:
    """All quotas in an organization as they are at a `revision`, which grows with each change of one of them.

    `limits`: of all its projects together, `projects`: of each project that has a quota; by resource, and one without a
    limit is absent. `members`: the ids of all its projects.
    """

    organization_id: str
    revision: int = 0
    limits: Mapping[str, QuotaLimit] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, QuotaLimit]] = field(default_factory=dict)
    members: frozenset[str] = frozenset()

    def nominal_of_projects(self, resource: str) -> int:
        """What all projects together have as nominal."""
        return sum(limits[resource].nominal for limits in self.projects.values() if resource in limits)


class Capacity(Protocol):
    """Tells what capacity is used for, and puts quotas into effect. Methods block and are safe in any thread."""

    def use(self) -> Use:
        """What all projects use and wait for now. Raises Unavailable."""

    def check(self, quotas: OrganizationLimits, changed: Collection[str]) -> None:
        """Raises InvalidRequest or Conflict for quotas that can't take effect, Unavailable. Changes nothing.

        `changed`: the resources whose limits are new.
        """

    def apply(self, quotas: OrganizationLimits) -> bool:
        """Let these quotas of an organization take effect, and no others of it. Idempotent. Ends no workload.

        Returns whether nothing is left of former ones: what these admitted keeps them until it ends; apply again then.

        What a later revision has put into effect stays. Raises as `check`.
        """


def total(claims: Iterable[Claim]) -> dict[str, int]:
    """The sum of claims by resource."""
    amounts = dict.fromkeys(RESOURCES, 0)
    for claim in claims:
        for resource in RESOURCES:
            amounts[resource] += claim.amounts.get(resource, 0)
    return amounts


def _amount(resource: str, amount: int) -> str:
    if resource == "memory":
        return f"{amount >> 20} MiB of memory"
    return f"{amount / 1000:g} cores" if resource == "cpu" else f"{amount} GPUs"
