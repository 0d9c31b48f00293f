"""Money that is spent without a gateway instance, such as for a training, in the budgets that it counts in.

Gateway instances report what they spend (`leases`); what they hold and have not spent is no part of a budget's `spent`.
"""

from __future__ import annotations

import json

from llmariner.gateway.control_plane.port import Key, Rule
from llmariner.gateway.control_plane.serialization import rule_from_wire
from llmariner.limits.budgets import budget_from_row
from llmariner.limits.leases import lock_states, publish_alert, select_binding, write_states
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.limits.quota_state import QuotaState
from llmariner.limits.tables import budgets
from llmariner.platform.database import WriteSession

__all__ = ["DirectCharges", "InsufficientBudget"]


class InsufficientBudget(Exception):
    """A hard budget leaves less than an amount; `rule`: the budget, `left`: nano-dollars."""

    def __init__(self, rule: Rule, left: int) -> None:
        super().__init__(f"The budget '{rule.id}' of the {rule.subject} leaves {left} nano-dollars.")
        self.rule = rule
        self.left = left


class DirectCharges:
    """The budgets that bind a payer, locked from here until the transaction ends.

    Make it before the ledger records what is charged: a budget that was never used before begins with what the ledger has.
    """

    def __init__(self, session: WriteSession, payer: Key) -> None:
        self._session = session
        self._states: dict[str, QuotaState] = {}
        ids = [budget_from_row(row).id for row in session.rows(select_binding(budgets, [payer]))]
        rows = lock_states(session, ids) if ids else ()
        source, now = LedgerUsageSource(session), session.now()
        for row in rows:
            state = QuotaState.load(rule_from_wire(json.loads(row.rule)), row.state)
            state.advance(now, source)
            self._states[row.id] = state

    def check(self, money: int) -> None:
        """Raises InsufficientBudget where a hard budget leaves less than so many nano-dollars, 1 at least."""
        for state in self._states.values():
            left = (state.rule.amount or 0) - state.spent
            if state.rule.hard and left < max(1, money):
                raise InsufficientBudget(state.rule, left)

    def add(self, money: int) -> None:
        """Count money that is spent now, also beyond what a budget leaves."""
        for state in self._states.values():
            state.spent += money
            if state.alert_due():
                state.mark_alerted()
                publish_alert(self._session, state)
        if self._states:
            self._session.run(write_states({id_: state.dump() for id_, state in self._states.items()}))
