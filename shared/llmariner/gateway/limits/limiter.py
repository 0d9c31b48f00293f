"""Limits and budgets in one process: slices leased through the control port, from which requests take at once.

A request asks nobody as long as a slice is left. Slices are refilled ahead of need, accounts settled and given back in
the background. What can't be had is remembered for a while, so that refusals cost nobody anything but the caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable

from llmariner.errors import PlatformError, Unavailable
from llmariner.gateway.control_plane.port import Amounts, ControlPlane, Key
from llmariner.gateway.limits.applicable_limits import ApplicableLimits, Reservation
from llmariner.gateway.limits.lease_client import LeaseClient
from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.gateway.responses import limit_errors as refusals

__all__ = ["Limiter"]

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
_TRIES = 4


class Limiter:
    """The slices of one process."""

    def __init__(self, control_plane: ControlPlane, instance: str | None = None) -> None:
        self._lease_client = LeaseClient(control_plane, instance)
        self._limits_by_key = self._lease_client.limits_by_key
        self.revision = 0

    def try_reserve(
        self, key: Key, model: str, prompt: int, answer: int | None, answers: int = 1
    ) -> Reservation | None:
        """Take a request, a place and tokens for prompt and answer, if the slices have it.

        `answer`: tokens of all `answers` together; None: each of open length. None says: ask `admit`. ValueError for
        negative amounts, which would give instead of take.
        """
        terms = self._limits_by_key.get(key.id)
        if terms is None:
            return None
        bound = terms.for_model(model) if terms.named_models else terms.default
        tokens = prompt + (bound.default_completion_tokens * answers if answer is None else answer)
        if not 0 <= prompt <= tokens:
            raise _negative_amounts(tokens - prompt, prompt)
        # As in `_taken`; a call more would be a tenth of this.
        for limit in bound.limits:
            if limit.requests < 1 or limit.tokens < tokens or limit.slots < 1:
                return None
        for limit in bound.limits:
            limit.requests -= 1
            limit.tokens -= tokens
            limit.slots -= 1
        return Reservation(bound, tokens)

    async def reserve(self, key: Key, model: str, prompt: int, answer: int | None, answers: int = 1) -> Reservation:
        """As `reserve`, getting more where a slice is used up. RateLimited says when to come again."""
        if prompt < 0 or (answer or 0) < 0:
            raise _negative_amounts(prompt, answer)
        terms = self._limits_by_key.get(key.id) or await self._lease_client.fetch_limits(key, model, prompt)
        return await self._reserve_with_sync(terms.for_model(model), key, model, prompt, answer, answers)

    async def reserve_for_base_model(
        self,
        reservation: Reservation,
        key: Key,
        model: str,
        base: str,
        prompt: int,
        answer: int | None,
        answers: int = 1,
    ) -> None:
        """Have a reservation for an adapter count for its base model, too. RateLimited: it holds nothing any more."""
        terms = self._limits_by_key.get(key.id) or await self._lease_client.fetch_limits(key, model, prompt)
        if base not in terms.named_models:
            return
        reservation.cancel()
        taken = await self._reserve_with_sync(terms.for_adapter(model, base), key, model, prompt, answer, answers)
        reservation.applicable, reservation.tokens = taken.applicable, taken.tokens

    async def _reserve_with_sync(
        self, bound: ApplicableLimits, key: Key, model: str, prompt: int, answer: int | None, answers: int
    ) -> Reservation:
        """A reservation, from larger slices where these are used up. RateLimited."""
        if (answer or 0) > bound.max_tokens:
            _check_size(bound, key, model, answer or 0)
        # A prompt's bound may be over a small limit where the prompt itself is not: then it takes the whole limit.
        longest = bound.default_completion_tokens * answers if answer is None else answer
        tokens = int(min(prompt + longest, bound.max_tokens))
        for _ in range(_TRIES):
            if (reserved := _try_reserve(bound, tokens)) is not None:
                return reserved
            short = [limit for limit in bound.limits if _lacks(limit, tokens)]
            if not self._record_shortage(short, Amounts(1, tokens, 1)):
                break
            await self._lease_client.sync(short)
        if (reserved := _try_reserve(bound, tokens)) is not None:
            return reserved
        closed = max(bound.limits, key=lambda limit: (_lacks(limit, tokens), limit.blocked_until))
        headers = {name.decode(): value.decode() for name, value in bound.headers()}
        raise refusals.rate_limited(closed, key, model, tokens, time.monotonic(), headers)

    def try_reserve_money(self, reservation: Reservation, money: int) -> bool:
        """Take the most that a request can cost from every budget, if the slices have it. False says: ask `fund`."""
        if money < 0:
            raise _negative_amounts(money)
        budgets = reservation.applicable.budgets
        for budget in budgets:
            if budget.money < money:
                return False
        for budget in budgets:
            budget.money -= money
        reservation.money = money
        return True

    async def reserve_money(self, reservation: Reservation, money: int) -> None:
        """As `take_money`, getting more where a slice is used up. InsufficientQuota names the budget that can't pay."""
        for budget in reservation.applicable.budgets:
            if budget.limited[3] and (budget.rule.amount or 0) < money:
                raise refusals.budget_exceeded(budget, time.monotonic())
        for _ in range(_TRIES):
            if self.try_reserve_money(reservation, money):
                return
            short = [budget for budget in reservation.applicable.budgets if budget.money < money]
            if not self._record_shortage(short, Amounts(money=money)):
                break
            await self._lease_client.sync(short)
        if self.try_reserve_money(reservation, money):
            return
        if time.monotonic() < self._lease_client.unavailable_until:
            raise Unavailable(
                "Nobody can say what is left of a budget just now. Try again.", headers={"retry-after": "2"}
            )
        lacking = next(budget for budget in reservation.applicable.budgets if budget.money < money)
        raise refusals.budget_exceeded(lacking, time.monotonic())

    def invalidate(
        self, key_ids: Iterable[str], revision: int, subjects: Collection[tuple[str, str]] | None = None
    ) -> None:
        """Ask again what binds these keys before they go on, and, if `rules` rose, whoever the `subjects` concern.

        Those go on as before until the answer is here. None: everybody (see `Changes`).
        """
        for key_id in key_ids:
            self._lease_client.invalidate_key(key_id)
        if revision != self.revision:
            self.revision = revision
            self._lease_client.invalidate_subjects(subjects)

    async def run(self) -> None:
        """Settle accounts until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            try:
                await self._lease_client.sync([each for each in self._lease_client.active if each.needs_sync(now)])
            except Unavailable:
                pass  # whoever needs more is told so
            except Exception:
                _log.exception("limits could not be settled")

    async def close(self) -> None:
        """Give everything back."""
        try:
            await self._lease_client.close()
        except PlatformError:
            _log.warning("slices of limits could not be given back; they come back by themselves")

    def _record_shortage(self, short: list[LeasedQuota], need: Amounts) -> bool:
        """Note what is missing; whether there may be some of it by now."""
        now = time.monotonic()
        for each in short:
            each.record_shortage(need, now)
        return now >= self._lease_client.unavailable_until and all(now >= each.blocked_until for each in short)


def _check_size(bound: ApplicableLimits, key: Key, model: str, tokens: int) -> None:
    """RateLimited for an answer that is over a limit; one that was raised meanwhile refuses nothing."""
    for limit in bound.limits:
        most = min((n for name, n in limit.rule.thresholds.items() if name.startswith("tokens")), default=tokens)
        if most < tokens:
            raise refusals.request_too_large(limit.rule, key, model, tokens, most)


def _try_reserve(bound: ApplicableLimits, tokens: int) -> Reservation | None:
    """What one request takes, if all limits have it."""
    for limit in bound.limits:
        if limit.requests < 1 or limit.tokens < tokens or limit.slots < 1:
            return None
    for limit in bound.limits:
        limit.requests -= 1
        limit.tokens -= tokens
        limit.slots -= 1
    return Reservation(bound, tokens)


def _negative_amounts(*amounts: int | None) -> ValueError:
    return ValueError(f"a request can't reserve negative amounts: {amounts}")


def _lacks(limit: LeasedQuota, tokens: int) -> bool:
    return limit.requests < 1 or limit.tokens < tokens or limit.slots < 1
