"""Limits and budgets in one process: slices leased through the control port, from which requests take at once.

A request asks nobody as long as a slice is left. Slices are refilled ahead of need, accounts settled and given back in
the background. What can't be had is remembered for a while, so that refusals cost nobody anything but the caller.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable
from typing import NoReturn

from llmariner.errors import PlatformError, Unavailable
from llmariner.gateway import refusals
from llmariner.gateway.allowance import Allowance
from llmariner.gateway.bound import Bound, Reservation
from llmariner.gateway.control import Amounts, Control, Hold, Key, LeaseAnswer, LeaseAsk, Rule
from llmariner.gateway.request_ids import process_name

__all__ = ["Limits"]

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
_MOST_KEYS = 50_000
_MOST_AT_ONCE = 200
_SOON_SECONDS = 1.0
_MOST_ALONG = 16
# How long the last slices are gone on with while nobody can be asked.
_TRUST_SECONDS = 600.0
_TRIES = 4
# How often it is tried to ask somebody who does not answer.
_AWAY_SECONDS = 1.0
_ALL_MODELS = "*"


class _Terms:
    """What binds one key: by model where a limit names one, `always` else."""

    __slots__ = ("always", "by_model")

    def __init__(self, allowances: list[Allowance]) -> None:
        everywhere = [each for each in allowances if each.rule.model == _ALL_MODELS]
        self.always = Bound(everywhere)
        named = {each.rule.model for each in allowances} - {_ALL_MODELS}
        self.by_model = {
            model: Bound([*everywhere, *(each for each in allowances if each.rule.model == model)]) for model in named
        }


class Limits:
    """The slices of one process."""

    def __init__(self, control: Control, replica: str | None = None) -> None:
        self._control = control
        self._replica = replica or process_name()
        self._terms: dict[str, _Terms] = {}
        self._outdated: dict[str, _Terms] = {}
        self._allowances: dict[str, Allowance] = {}
        self._active: set[Allowance] = set()
        self._wanted: set[Allowance] = set()
        self._settling: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        self._answered_at = time.monotonic()
        self._away_until = 0.0
        self._rules = 0

    def reserve(self, key: Key, model: str, prompt: int, answer: int | None, answers: int = 1) -> Reservation | None:
        """Take a request, a place and tokens for prompt and answer, if the slices have it.

        `answer`: tokens of all `answers` together; None: each of open length. None says: ask `admit`. ValueError for
        negative amounts, which would give instead of take.
        """
        terms = self._terms.get(key.id)
        if terms is None:
            return None
        bound = terms.by_model.get(model, terms.always)
        tokens = prompt + (bound.open_answer * answers if answer is None else answer)
        if not 0 <= prompt <= tokens:
            raise _negative(tokens - prompt, prompt)
        # As in `_taken`; a call more would be a tenth of this.
        for limit in bound.limits:
            if limit.requests < 1 or limit.tokens < tokens or limit.places < 1:
                return None
        for limit in bound.limits:
            limit.requests -= 1
            limit.tokens -= tokens
            limit.places -= 1
        return Reservation(bound, tokens)

    async def admit(self, key: Key, model: str, prompt: int, answer: int | None, answers: int = 1) -> Reservation:
        """As `reserve`, getting more where a slice is used up. RateLimited says when to come again."""
        if prompt < 0 or (answer or 0) < 0:
            raise _negative(prompt, answer)
        bound = await self._bound(key, model, prompt)
        if (answer or 0) > bound.most_tokens:
            self._too_large(bound, key, model, answer or 0)
        # A prompt's bound may be over a small limit where the prompt itself is not: then it takes the whole limit.
        longest = bound.open_answer * answers if answer is None else answer
        tokens = int(min(prompt + longest, bound.most_tokens))
        for _ in range(_TRIES):
            if (reserved := _taken(bound, tokens)) is not None:
                return reserved
            short = [limit for limit in bound.limits if _lacks(limit, tokens)]
            if not self._worth_asking(short, Amounts(1, tokens, 1)):
                break
            await self._settle(short)
        if (reserved := _taken(bound, tokens)) is not None:
            return reserved
        closed = max(bound.limits, key=lambda limit: (_lacks(limit, tokens), limit.closed_until))
        headers = {name.decode(): value.decode() for name, value in bound.headers()}
        raise refusals.too_many(closed, key, model, tokens, time.monotonic(), headers)

    def take_money(self, reservation: Reservation, money: int) -> bool:
        """Take the most that a request can cost from every budget, if the slices have it. False says: ask `fund`."""
        if money < 0:
            raise _negative(money)
        budgets = reservation.bound.budgets
        for budget in budgets:
            if budget.money < money:
                return False
        for budget in budgets:
            budget.money -= money
        reservation.money = money
        return True

    async def fund(self, reservation: Reservation, money: int) -> None:
        """As `take_money`, getting more where a slice is used up. InsufficientQuota names the budget that can't pay."""
        for budget in reservation.bound.budgets:
            if budget.limited[3] and (budget.rule.amount or 0) < money:
                raise refusals.out_of_budget(budget, time.monotonic())
        for _ in range(_TRIES):
            if self.take_money(reservation, money):
                return
            short = [budget for budget in reservation.bound.budgets if budget.money < money]
            if not self._worth_asking(short, Amounts(money=money)):
                break
            await self._settle(short)
        if self.take_money(reservation, money):
            return
        if time.monotonic() < self._away_until:
            raise Unavailable(
                "Nobody can say what is left of a budget just now. Try again.", headers={"retry-after": "2"}
            )
        lacking = next(budget for budget in reservation.bound.budgets if budget.money < money)
        raise refusals.out_of_budget(lacking, time.monotonic())

    def forget(self, key_ids: Iterable[str], rules: int) -> None:
        """Ask again what binds these keys, or all of them if `rules` (see `Changes`) rose."""
        if rules != self._rules:
            self._rules = rules
            key_ids = list(self._terms)
        for key_id in key_ids:
            if (terms := self._terms.pop(key_id, None)) is not None:
                self._outdated[key_id] = terms
        if len(self._outdated) > _MOST_KEYS:
            self._outdated.clear()

    async def run(self) -> None:
        """Settle accounts until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            due = [each for each in self._active if each.due(now)]
            try:
                for some in _in_parts(due):
                    await self._settle(some)
            except Unavailable:
                pass  # whoever needs more is told so
            except Exception:
                _log.exception("limits could not be settled")

    async def close(self) -> None:
        """Give everything back."""
        now = time.monotonic()
        try:
            for some in _in_parts(self._active):
                await self._lease([each.hold(now, ending=True) for each in some])
        except PlatformError:
            _log.warning("slices of limits could not be given back; they come back by themselves")

    async def _bound(self, key: Key, model: str, prompt: int) -> Bound:
        terms = self._terms.get(key.id)
        if terms is None:
            async with self._asking:
                terms = self._terms.get(key.id) or await self._met(key, model, prompt)
        return terms.by_model.get(model, terms.always)

    async def _met(self, key: Key, model: str, prompt: int) -> _Terms:
        """Ask what binds a caller; those known before go on as they were while nobody can be asked."""
        try:
            answer = await self._control.lease(
                LeaseAsk(self._replica, time.time(), (), key, model, Amounts(1, prompt, 1))
            )
        except Unavailable:
            if (known := self._outdated.get(key.id)) is None:
                raise
            return known
        self._answered_at = time.monotonic()
        if len(self._terms) >= _MOST_KEYS:
            self._terms.clear()
            self._allowances = {each.rule.id: each for each in self._active}
        terms = _Terms([self._allowance(rule) for rule in answer.rules or ()])
        self._apply(answer, {})
        self._outdated.pop(key.id, None)
        self._terms[key.id] = terms
        return terms

    def _allowance(self, rule: Rule) -> Allowance:
        found = self._allowances.get(rule.id)
        if found is None:
            found = self._allowances[rule.id] = Allowance(rule)
        elif found.rule != rule:
            found.change(rule)
        return found

    def _worth_asking(self, short: list[Allowance], need: Amounts) -> bool:
        """Note what is missing; whether there may be some of it by now."""
        now = time.monotonic()
        for each in short:
            each.miss(need, now)
        return now >= self._away_until and all(now >= each.closed_until for each in short)

    async def _settle(self, allowances: Iterable[Allowance]) -> None:
        """Settle these accounts, with all others that wait for it, and get more of what is short."""
        self._wanted.update(allowances)
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_wanted())
        await asyncio.shield(self._settling)

    async def _settle_wanted(self) -> None:
        try:
            async with self._asking:
                some, self._wanted = list(self._wanted)[:_MOST_AT_ONCE], set()
                await self._settle_some(some)
        finally:
            # Who came meanwhile looks at what there is now before asking again.
            self._settling = None

    async def _settle_some(self, some: list[Allowance]) -> None:
        now = time.monotonic()
        # One question more costs as much as several accounts in the same one.
        soon = (each for each in self._active if now - each.synced_at > _SOON_SECONDS and each not in some)
        along = list(itertools.islice(soon, _MOST_ALONG))
        try:
            await self._lease([*(each.hold(now) for each in some), *(each.hold(now, keeping=True) for each in along)])
        except Unavailable:
            now = time.monotonic()
            self._away_until = now + _AWAY_SECONDS
            if now - self._answered_at > _TRUST_SECONDS:
                raise
            for each in some:
                each.refill(now)

    async def _lease(self, holds: list[Hold]) -> None:
        answer = await self._control.lease(LeaseAsk(self._replica, time.time(), holds))
        self._answered_at, self._away_until = time.monotonic(), 0.0
        self._apply(answer, {hold.rule: hold for hold in holds})

    def _apply(self, answer: LeaseAnswer, told: dict[str, Hold]) -> None:
        now = time.monotonic()
        for grant in answer.grants:
            allowance = self._allowances.get(grant.rule)
            if allowance is None:
                continue
            allowance.take(grant, told.get(grant.rule), now)
            if allowance.sleeping:
                self._active.discard(allowance)
            else:
                self._active.add(allowance)
        for rule in told.keys() - {grant.rule for grant in answer.grants}:
            # It was taken away.
            if (gone := self._allowances.pop(rule, None)) is not None:
                self._active.discard(gone)

    def _too_large(self, bound: Bound, key: Key, model: str, tokens: int) -> NoReturn:
        for limit in bound.limits:
            most = min((n for name, n in limit.rule.most.items() if name.startswith("tokens")), default=tokens)
            if most < tokens:
                raise refusals.too_large(limit.rule, key, model, tokens, most)
        raise AssertionError


def _taken(bound: Bound, tokens: int) -> Reservation | None:
    """What one request takes, if all limits have it."""
    for limit in bound.limits:
        if limit.requests < 1 or limit.tokens < tokens or limit.places < 1:
            return None
    for limit in bound.limits:
        limit.requests -= 1
        limit.tokens -= tokens
        limit.places -= 1
    return Reservation(bound, tokens)


def _negative(*amounts: int | None) -> ValueError:
    return ValueError(f"a request can't reserve negative amounts: {amounts}")


def _lacks(limit: Allowance, tokens: int) -> bool:
    return limit.requests < 1 or limit.tokens < tokens or limit.places < 1


def _in_parts(allowances: Iterable[Allowance]) -> Iterable[list[Allowance]]:
    everything = list(allowances)
    return (everything[at : at + _MOST_AT_ONCE] for at in range(0, len(everything), _MOST_AT_ONCE))
