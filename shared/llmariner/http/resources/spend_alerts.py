"""Spend alerts as both of their functions answer for them: the organisation's, and each project's."""

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
    """Whom the event names. Nothing is sent by e-mail from here: that is for a consumer of the event."""

    type: Literal["email"]
    recipients: Annotated[list[_Address], Field(min_length=1, max_length=100)]
    subject_prefix: Annotated[str | None, Field(max_length=256)] = None


class AlertBody(Body):
    """POST of a spend alert, new or not. `threshold_amount` in cents."""

    currency: Literal["USD"]
    interval: Literal["month"]
    threshold_amount: Annotated[int, Field(ge=0, le=10**11)]
    notification_channel: _Channel

    @property
    def channel(self) -> dict[str, Any]:
        """As it is kept and shown."""
        return self.notification_channel.model_dump()


def alerts_of(request: Request) -> SpendAlerts:
    """Those of the installation."""
    return SpendAlerts(context_of(request).budgets)
