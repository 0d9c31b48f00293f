"""OpenAI's spend alerts: notifications that an organization or a project has spent an amount (in cents) in a month.

Each is a budget that rejects nothing; a subject may have several. A reached alert publishes `ai.llmariner.budget.alert.v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.errors import NotFound
from llmariner.limits.budgets import Budget, Budgets
from llmariner.limits.rules import Subject
from llmariner.limits.spend_limits import MONTH, NANO_PER_CENT
from llmariner.tenancy.principal import Caller

__all__ = ["SpendAlerts"]


class SpendAlerts:
    """The spend alerts of one installation, in OpenAI's admin format. `channel` is its `notification_channel`."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def all(self, subject: Subject) -> list[dict[str, Any]]:
        """The alerts of a subject, newest first."""
        return [_representation(alert) for alert in reversed(self._budgets.for_subject(subject)) if _is_alert(alert)]

    def get(self, subject: Subject, alert_id: str) -> dict[str, Any]:
        """One alert. Raises NotFound."""
        return _representation(self._get(subject, alert_id))

    def create(self, actor: Caller, subject: Subject, cents: int, channel: Mapping[str, Any]) -> dict[str, Any]:
        """Create an alert of an amount for the channel's recipients."""
        return _representation(self._budgets.add_alert(actor, subject, MONTH, cents * NANO_PER_CENT, channel))

    def update(
        self, actor: Caller, subject: Subject, alert_id: str, cents: int, channel: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change one alert. Raises NotFound."""
        alert = self._get(subject, alert_id)
        return _representation(self._budgets.update_alert(actor, alert, cents * NANO_PER_CENT, channel))

    def remove(self, actor: Caller, subject: Subject, alert_id: str) -> dict[str, Any]:
        """Delete one alert. Raises NotFound."""
        self._budgets.remove(actor, subject.organization_id, self._get(subject, alert_id).id)
        return {"id": alert_id, "object": f"{subject.kind}.spend_alert.deleted", "deleted": True}

    def _get(self, subject: Subject, alert_id: str) -> Budget:
        for alert in self._budgets.for_subject(subject):
            if alert.id == alert_id and _is_alert(alert):
                return alert
        raise NotFound(f"No spend alert with id '{alert_id}' of this {subject.kind}.", param="alert_id")


def _is_alert(budget: Budget) -> bool:
    return budget.channel is not None and budget.period == MONTH


def _representation(alert: Budget) -> dict[str, Any]:
    return {
        "id": alert.id,
        "object": f"{alert.subject.kind}.spend_alert",
        "currency": "USD",
        "interval": MONTH,
        "threshold_amount": alert.amount // NANO_PER_CENT,
        "notification_channel": alert.channel,
    }
