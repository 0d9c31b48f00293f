"""OpenAI's spend limit: the hard monthly budget of an organization or a project, in cents."""

from __future__ import annotations

from typing import Any

from llmariner.errors import NotFound
from llmariner.limits.budgets import Budget, Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.rules import Subject
from llmariner.tenancy.principal import Caller

__all__ = ["MONTH", "NANO_PER_CENT", "SpendLimits"]

MONTH = "month"
NANO_PER_CENT = 10**7


class SpendLimits:
    """The spend limits of one installation, in OpenAI's admin format."""

    def __init__(self, budgets: Budgets, leases: Leases) -> None:
        self._budgets = budgets
        self._leases = leases

    def get(self, subject: Subject) -> dict[str, Any]:
        """The spend limit of a subject. Raises NotFound."""
        return self._representation(self._get(subject))

    def put(self, actor: Caller, subject: Subject, cents: int) -> dict[str, Any]:
        """Set a subject's spend limit; requests are rejected once it is spent."""
        return self._representation(self._budgets.put(actor, subject, MONTH, NewBudget(cents * NANO_PER_CENT)))

    def remove(self, actor: Caller, subject: Subject) -> dict[str, Any]:
        """Delete a subject's spend limit. Raises NotFound."""
        self._budgets.remove(actor, subject.organization_id, self._get(subject).id)
        return {"object": f"{subject.kind}.spend_limit.deleted", "deleted": True}

    def _get(self, subject: Subject) -> Budget:
        for budget in self._budgets.for_subject(subject):
            if budget.period == MONTH and budget.hard:
                return budget
        raise NotFound(f"No spend limit is set for this {subject.kind}.")

    def _representation(self, budget: Budget) -> dict[str, Any]:
        state = self._leases.quota_states([budget.id])[budget.id]
        return {
            "object": f"{budget.subject.kind}.spend_limit",
            "currency": "USD",
            "interval": MONTH,
            "threshold_amount": budget.amount // NANO_PER_CENT,
            "enforcement": {"status": "enforcing" if state.spent >= budget.amount else "inactive"},
        }
