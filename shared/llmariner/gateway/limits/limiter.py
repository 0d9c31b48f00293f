"""Enforcement of limits and budgets in one gateway instance, against slices of quota leased from the control plane.

A request reserves from a leased slice without a call to the control plane. A background task renews leases ahead of
need, reports usage and returns what is unused. A quota that is exhausted stays blocked for a while, so that rejections
cost no calls.
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
from llmariner.gateway.responses import limit_errors

__all__ = ["Limiter"]

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
_MAX_ATTEMPTS = 4


class Limiter:
    """The limits and budgets of one gateway instance. `revision`: the latest one of the limits that is known here."""

    def __init__(self, control_plane: ControlPlane, instance: str | None = None) -> None:
        self._lease_client = LeaseClient(control_plane, instance)
        self._limits_by_key = self._lease_client.limits_by_key
        self.revision = 0

    def try_reserve(
        self, key: Key, model: str, prompt_tokens: int, completion_tokens: int | None, choices: int = 1
    ) -> Reservation | None:
        """Reserve a request, a slot, and tokens for prompt and completion from leased quota. None: call `reserve`.

        `completion_tokens`: of all `choices` together; None: unbounded. Raises ValueError for negative amounts, which would
        increase the quota.
        """
        caller_limits = self._limits_by_key.get(key.id)
        if caller_limits is None:
            return None
        applicable = caller_limits.for_model(model) if caller_limits.named_models else caller_limits.default
        tokens = prompt_tokens + (
            applicable.default_completion_tokens * choices if completion_tokens is None else completion_tokens
        )
        if not 0 <= prompt_tokens <= tokens:
            raise _negative_amounts(tokens - prompt_tokens, prompt_tokens)
        # This repeats `_try_reserve`: calling it would take a tenth more time.
        for limit in applicable.limits:
            if limit.requests < 1 or limit.tokens < tokens or limit.slots < 1:
                return None
        for limit in applicable.limits:
            limit.requests -= 1
            limit.tokens -= tokens
            limit.slots -= 1
        return Reservation(applicable, tokens)

    async def reserve(
        self, key: Key, model: str, prompt_tokens: int, completion_tokens: int | None, choices: int = 1
    ) -> Reservation:
        """Like `try_reserve`, but leases more quota where a slice is exhausted.

        Raises RateLimited with a retry-after header.
        """
        if prompt_tokens < 0 or (completion_tokens or 0) < 0:
            raise _negative_amounts(prompt_tokens, completion_tokens)
        caller_limits = self._limits_by_key.get(key.id) or await self._lease_client.fetch_limits(
            key, model, prompt_tokens
        )
        return await self._reserve_with_sync(
            caller_limits.for_model(model), key, model, prompt_tokens, completion_tokens, choices
        )

    async def reserve_for_base_model(
        self,
        reservation: Reservation,
        key: Key,
        model: str,
        base: str,
        prompt_tokens: int,
        completion_tokens: int | None,
        choices: int = 1,
    ) -> None:
        """Extend an adapter's reservation to the limits of its base model.

        Raises RateLimited; the reservation is then empty.
        """
        caller_limits = self._limits_by_key.get(key.id) or await self._lease_client.fetch_limits(
            key, model, prompt_tokens
        )
        if base not in caller_limits.named_models:
            return
        reservation.cancel()
        extended = await self._reserve_with_sync(
            caller_limits.for_adapter(model, base), key, model, prompt_tokens, completion_tokens, choices
        )
        reservation.applicable, reservation.tokens = extended.applicable, extended.tokens

    async def _reserve_with_sync(
        self,
        applicable: ApplicableLimits,
        key: Key,
        model: str,
        prompt_tokens: int,
        completion_tokens: int | None,
        choices: int,
    ) -> Reservation:
        """Reserve, leasing more quota where a slice is exhausted. Raises RateLimited."""
        if (completion_tokens or 0) > applicable.max_tokens:
            _check_size(applicable, key, model, completion_tokens or 0)
        # The upper bound of a prompt may exceed a small limit although the prompt does not: it then reserves the whole
        # limit.
        longest = applicable.default_completion_tokens * choices if completion_tokens is None else completion_tokens
        tokens = int(min(prompt_tokens + longest, applicable.max_tokens))
        for _ in range(_MAX_ATTEMPTS):
            if (reserved := _try_reserve(applicable, tokens)) is not None:
                return reserved
            exhausted = [limit for limit in applicable.limits if _lacks(limit, tokens)]
            if not self._record_shortage(exhausted, Amounts(1, tokens, 1)):
                break
            await self._lease_client.sync(exhausted)
        if (reserved := _try_reserve(applicable, tokens)) is not None:
            return reserved
        exceeded = max(applicable.limits, key=lambda limit: (_lacks(limit, tokens), limit.blocked_until))
        headers = {name.decode(): value.decode() for name, value in applicable.headers()}
        raise limit_errors.rate_limited(exceeded, key, model, tokens, time.monotonic(), headers)

    def try_reserve_money(self, reservation: Reservation, money: int) -> bool:
        """Reserve the maximum cost of a request (nano-dollars) in every budget. False: call `reserve_money`."""
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
        """Like `try_reserve_money`, but leases more where a slice is exhausted.

        Raises InsufficientQuota, which names the budget.
        """
        for budget in reservation.applicable.budgets:
            if budget.limited[3] and (budget.rule.amount or 0) < money:
                raise limit_errors.budget_exceeded(budget, time.monotonic())
        for _ in range(_MAX_ATTEMPTS):
            if self.try_reserve_money(reservation, money):
                return
            exhausted = [budget for budget in reservation.applicable.budgets if budget.money < money]
            if not self._record_shortage(exhausted, Amounts(money=money)):
                break
            await self._lease_client.sync(exhausted)
        if self.try_reserve_money(reservation, money):
            return
        if time.monotonic() < self._lease_client.unavailable_until:
            raise Unavailable(
                "Nobody can say what is left of a budget just now. Try again.", headers={"retry-after": "2"}
            )
        lacking = next(budget for budget in reservation.applicable.budgets if budget.money < money)
        raise limit_errors.budget_exceeded(lacking, time.monotonic())

    def invalidate(
        self, key_ids: Iterable[str], revision: int, subjects: Collection[tuple[str, str]] | None = None
    ) -> None:
        """Invalidate the limits of these keys, and, if `revision` differs, refresh those of keys of the `subjects`.

        Keys that are refreshed keep their limits until the response arrives. `subjects` None: all keys (see `Changes`).
        """
        for key_id in key_ids:
            self._lease_client.invalidate_key(key_id)
        if revision != self.revision:
            self.revision = revision
            self._lease_client.invalidate_subjects(subjects)

    async def run(self) -> None:
        """Report usage and renew leases until canceled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            try:
                await self._lease_client.sync([each for each in self._lease_client.active if each.needs_sync(now)])
            except Unavailable:
                pass  # requests that need more quota raise it themselves
            except Exception:
                _log.exception("reporting usage of limits failed")

    async def close(self) -> None:
        """Return all leases."""
        try:
            await self._lease_client.close()
        except PlatformError:
            _log.warning("leases could not be returned; they expire by themselves")

    def _record_shortage(self, exhausted: list[LeasedQuota], need: Amounts) -> bool:
        """Record the shortage; return whether more quota may be available by now."""
        now = time.monotonic()
        for each in exhausted:
            each.record_shortage(need, now)
        return now >= self._lease_client.unavailable_until and all(now >= each.blocked_until for each in exhausted)


def _check_size(applicable: ApplicableLimits, key: Key, model: str, tokens: int) -> None:
    """Raise RateLimited for a completion that exceeds a limit, unless the limit was raised in the meantime."""
    for limit in applicable.limits:
        most = min((n for name, n in limit.rule.thresholds.items() if name.startswith("tokens")), default=tokens)
        if most < tokens:
            raise limit_errors.request_too_large(limit.rule, key, model, tokens, most)


def _try_reserve(applicable: ApplicableLimits, tokens: int) -> Reservation | None:
    """Reserve one request if all limits allow it."""
    for limit in applicable.limits:
        if limit.requests < 1 or limit.tokens < tokens or limit.slots < 1:
            return None
    for limit in applicable.limits:
        limit.requests -= 1
        limit.tokens -= tokens
        limit.slots -= 1
    return Reservation(applicable, tokens)


def _negative_amounts(*amounts: int | None) -> ValueError:
    return ValueError(f"a request can't reserve negative amounts: {amounts}")


def _lacks(limit: LeasedQuota, tokens: int) -> bool:
    return limit.requests < 1 or limit.tokens < tokens or limit.slots < 1
