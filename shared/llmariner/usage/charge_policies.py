"""What pays where tokens and devices both have a price: the operator's choice, with its periods of validity.

It matters to models of a project and to fine-tuning jobs alone: they use tokens on devices of their own. Models that all
projects share are always charged by their tokens, and batch jobs and notebooks by their devices. A choice that was valid
never changes: a new one starts now or later, and ends the previous one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.audit import log as audit
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.principal import Caller
from llmariner.usage.tables import charge_policies
from llmariner.usage.validity import begin_period

__all__ = ["Charge", "ChargePolicies", "ChargePolicy", "ChargePolicyList"]

_c = charge_policies.c


class Charge(StrEnum):
    """What models of a project and fine-tuning jobs pay: the price of tokens, that of devices, or both."""

    TOKENS = "tokens"
    DEVICES = "devices"
    BOTH = "both"


@dataclass(frozen=True)
class ChargePolicy:
    """A choice, valid from a time on (Unix seconds); `valid_to` None: no end."""

    id: str
    charge: Charge
    valid_from: float
    valid_to: float | None
    created_at: int


class ChargePolicyList:
    """The choices that are valid somewhere in a span of time. Without any it is `BOTH`."""

    def __init__(self, listed: Sequence[ChargePolicy] = ()) -> None:
        self._listed = [
            (
                round(each.valid_from * 1000),
                math.inf if each.valid_to is None else round(each.valid_to * 1000),
                each.charge,
            )
            for each in listed
        ]

    @classmethod
    def all(cls, session: ReadSession) -> ChargePolicyList:
        """All choices, past and future ones."""
        return cls([_from_row(row) for row in session.rows(select(charge_policies))])

    @classmethod
    def of_span(cls, session: ReadSession, start: float, end: float) -> ChargePolicyList:
        """The choices of a span, both ends included, in Unix seconds."""
        valid = (_c.valid_from <= end) & or_(_c.valid_to.is_(None), _c.valid_to >= start)
        return cls([_from_row(row) for row in session.rows(select(charge_policies).where(valid))])

    def at(self, at_ms: int) -> Charge:
        """The choice at a time, in milliseconds."""
        return next((charge for begins, ends, charge in self._listed if begins <= at_ms < ends), Charge.BOTH)

    def changes_ms(self) -> set[int]:
        """When the choice changes, in milliseconds."""
        return {int(time) for begins, ends, _ in self._listed for time in (begins, ends) if time < math.inf}


class ChargePolicies:
    """The choices of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, actor: Caller, charge: Charge, *, valid_from: float | None) -> ChargePolicy:
        """Choose from now or a later time on. The caller has checked that the actor runs the installation."""
        with self._database.write() as session:
            start, end = begin_period(session, charge_policies, valid_from, "What was charged")
            policy = ChargePolicy(new_id("charge"), charge, start, end, int(session.now()))
            session.add(charge_policies, **asdict(policy))
            payload = {"id": policy.id, "data": asdict(policy)}
            audit.append_entry(session, actor, "charge_policy.created", payload, organization_id=actor.organization_id)
            return policy

    def page(self, *, after: str | None, limit: int) -> Sequence[ChargePolicy]:
        """Choices by id from `after` on."""
        query = select(charge_policies) if after is None else select(charge_policies).where(_c.id > after)
        with self._database.read() as session:
            return [_from_row(row) for row in session.rows(query.order_by(_c.id).limit(limit))]


def _from_row(row: Row[Any]) -> ChargePolicy:
    return ChargePolicy(**{**row._mapping, "charge": Charge(row.charge)})
