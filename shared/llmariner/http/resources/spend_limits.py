"""Spend limits over HTTP, shared by the routes of organizations and projects."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from pydantic import Field

from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.schemas.bodies import Body
from llmariner.limits.spend_limits import SpendLimits
from llmariner.tenancy.principal import Caller

__all__ = ["READ", "WRITE", "Reader", "SpendLimitBody", "Writer", "limits_of"]

READ, WRITE = "api.budgets.read", "api.budgets.write"
Reader = Annotated[Caller, require_org_admin(READ)]
Writer = Annotated[Caller, require_org_admin(WRITE)]


class SpendLimitBody(Body):
    """POST …/spend_limit. `threshold_amount` in cents."""

    currency: Literal["USD"]
    interval: Literal["month"]
    threshold_amount: Annotated[int, Field(ge=0, le=10**11)]


def limits_of(request: Request) -> SpendLimits:
    """The store of the installation's spend limits."""
    return SpendLimits(context_of(request).budgets, context_of(request).leases)
