"""Spend alerts over HTTP, shared by the routes of organizations and projects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field, StringConstraints

from llmariner.http.authorization.authentication import context_of
from llmariner.http.schemas.bodies import Body
from llmariner.limits.spend_alerts import SpendAlerts

__all__ = ["AlertBody", "alerts_of"]

_Address = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=320)]


class _Channel(Body):
    """The recipients that the event names. The platform sends no e-mail: a consumer of the event does."""

    type: Literal["email"]
    recipients: Annotated[list[_Address], Field(min_length=1, max_length=100)]
    subject_prefix: Annotated[str | None, Field(max_length=256)] = None


class AlertBody(Body):
    """POST of a spend alert, to create or update it. `threshold_amount` in cents."""

    currency: Literal["USD"]
    interval: Literal["month"]
    threshold_amount: Annotated[int, Field(ge=0, le=10**11)]
    notification_channel: _Channel

    @property
    def channel(self) -> dict[str, Any]:
        """The notification channel as it is stored and returned."""
        return self.notification_channel.model_dump()


def alerts_of(request: Request) -> SpendAlerts:
    """The store of the installation's spend alerts."""
    return SpendAlerts(context_of(request).budgets)
