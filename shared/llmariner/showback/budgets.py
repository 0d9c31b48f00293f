"""Whether who asks for a job may spend on compute."""

from __future__ import annotations

from sqlalchemy import or_, select

from llmariner.errors import InsufficientQuota
from llmariner.gateway.control_plane.port import Key
from llmariner.limits.direct_charges import DirectCharges, InsufficientBudget
from llmariner.platform.database import WriteSession
from llmariner.showback.tables import compute_prices
from llmariner.tenancy.principal import KeyOwner
from llmariner.usage.charge_policies import Charge, ChargePolicyList
from llmariner.usage.prices import dollars

__all__ = ["check_compute_budgets"]

_c = compute_prices.c


def check_compute_budgets(session: WriteSession, owner: KeyOwner, *, by_tokens: bool = False) -> None:
    """Raises InsufficientQuota where a hard budget of the owner is spent and compute has a price.

    `by_tokens`: for what also has a price by tokens, and may be charged by them alone.

    A budget that counts one key or model counts no compute.
    """
    now = session.now()
    if by_tokens and ChargePolicyList.of_span(session, now, now).at(round(now * 1000)) is Charge.TOKENS:
        return
    valid = (_c.valid_from <= now) & or_(_c.valid_to.is_(None), _c.valid_to > now)
    if session.first(select(_c.id).where(valid).limit(1)) is None:
        return
    payer = Key(
        id="",
        project_id=owner.project_id,
        organization_id=owner.organization_id,
        user_id=owner.user_id,
        scopes=frozenset(),
        expires_at=None,
        unlimited=False,
    )
    try:
        DirectCharges(session, payer).check(1)
    except InsufficientBudget as spent:
        rule = spent.rule
        raise InsufficientQuota(
            f"You exceeded your current quota: the {rule.period} budget of {dollars(rule.amount or 0):.6g} US dollars of "
            f"the {rule.subject} is spent, and compute has a price. An owner of the organization can raise it: "
            f"POST /v1/budgets/{rule.id}.",
            headers={"x-should-retry": "false"},
            details={"budget": rule.id},
        ) from None
