"""What one process asks of the control port about limits: what binds a caller, and slices of what is left.

There is one question at a time, so that what a process says of a rule and what it is granted follow one another. Each
carries up to some hundred accounts and callers: those that wait, then those whose rules changed meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from llmariner.errors import Unavailable
from llmariner.gateway.control_plane.port import (
    NO_AMOUNTS,
    Amounts,
    ControlPlane,
    Key,
    LeaseReport,
    LeaseRequest,
    LeaseResponse,
    Rule,
    RulesQuery,
)
from llmariner.gateway.limits.applicable_limits import Bound
from llmariner.gateway.limits.leased_quota import Allowance
from llmariner.gateway.requests.request_ids import instance_id

__all__ = ["Leasing", "Terms"]

_log = logging.getLogger(__name__)
_MOST_KEYS = 50_000
_MOST_ACCOUNTS = 200
_MOST_CALLERS = 200
_SOON_SECONDS = 1.0
_MOST_ALONG = 16
# How long the last slices are gone on with while nobody can be asked.
_TRUST_SECONDS = 600.0
# How often it is tried to ask somebody who does not answer.
_AWAY_SECONDS = 1.0
_ALL_MODELS = "*"


class Terms:
    """What binds one key; `named`: the models that limits name. There may be hundreds: what binds requests for one of
    them is put together when the first comes."""

    __slots__ = ("_allowances", "_bounds", "always", "key", "named")

    def __init__(self, key: Key, allowances: list[Allowance]) -> None:
        self.key = key
        self._allowances = allowances
        self.named = {each.rule.model for each in allowances} - {_ALL_MODELS}
        self.always = self._made()
        self._bounds: dict[str, Bound] = {}

    def of(self, model: str) -> Bound:
        """What binds requests for a model of that name."""
        bound = self._bounds.get(model)
        if bound is None:
            if model not in self.named:
                return self.always
            bound = self._bounds[model] = self._made(model)
        return bound

    def of_adapter(self, name: str, base: str) -> Bound:
        """What binds an adapter of that name: the limits of its base model, too."""
        return self._made(name, base)

    def _made(self, *models: str) -> Bound:
        names = (_ALL_MODELS, *models)
        return Bound([each for each in self._allowances if each.rule.model in names])


class Leasing:
    """The terms of the keys that this process knows, and their rules' slices.

    `active`: slices that have something to settle. `away_until`: nobody answered, and asking again is of no use before.
    """

    def __init__(self, control: ControlPlane, replica: str | None = None) -> None:
        self._control = control
        self._replica = replica or instance_id()
        self.terms: dict[str, Terms] = {}
        self.active: set[Allowance] = set()
        self.away_until = 0.0
        self._allowances: dict[str, Allowance] = {}
        # Terms of keys that changed: gone on with while nobody can be asked.
        self._forgotten: dict[str, Terms] = {}
        self._by_subject: dict[tuple[str, str], set[str]] = {}
        self._wanted: dict[Allowance, asyncio.Future[Exception | None]] = {}
        self._newcomers: dict[str, tuple[RulesQuery, asyncio.Future[Terms | Exception]]] = {}
        self._outdated: dict[str, None] = {}
        self._asked: set[str] = set()
        self._asking: asyncio.Task[None] | None = None
        self._answered_at = time.monotonic()

    async def settle(self, allowances: Iterable[Allowance]) -> None:
        """Settle these accounts, and get more of what is short; others' wait for the same question. Unavailable."""
        loop, answers = asyncio.get_running_loop(), []
        for each in allowances:
            answer = self._wanted.get(each)
            if answer is None:
                answer = self._wanted[each] = loop.create_future()
            answers.append(answer)
        self._go_on()
        if answers:
            await asyncio.wait(answers)
        for answer in answers:
            if (error := answer.result()) is not None:
                raise error

    async def meet(self, key: Key, model: str, prompt: int) -> Terms:
        """Ask what binds a caller; one known before goes on as it was while nobody can be asked. Unavailable."""
        waiting = self._newcomers.get(key.id)
        if waiting is None:
            answer: asyncio.Future[Terms | Exception] = asyncio.get_running_loop().create_future()
            waiting = self._newcomers[key.id] = RulesQuery(_bare(key), model, Amounts(1, prompt, 1)), answer
        self._go_on()
        await asyncio.wait([waiting[1]])
        found = waiting[1].result()
        if isinstance(found, Unavailable) and (known := self._forgotten.get(key.id)) is not None:
            return known
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self, key_id: str) -> None:
        """The key itself changed: what binds it is asked before its next request."""
        self._asked.discard(key_id)
        if (terms := self.terms.pop(key_id, None)) is not None:
            self._index(terms, add=False)
            self._forgotten[key_id] = terms
        if len(self._forgotten) > _MOST_KEYS:
            self._forgotten.clear()

    def outdate(self, subjects: Collection[tuple[str, str]] | None) -> None:
        """Rules of these subjects (kind and id) changed, None: any: whom they bind is asked in the background."""
        if subjects is None:
            concerned: Iterable[str] = self.terms
        else:
            concerned = itertools.chain.from_iterable(self._by_subject.get(subject, ()) for subject in subjects)
        self._outdated.update(dict.fromkeys(concerned))
        # What is being answered just now may have been read before the change.
        self._outdated.update(dict.fromkeys(self._asked))
        self._go_on()

    async def close(self) -> None:
        """Give everything back. Unavailable."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        now, everything = time.monotonic(), list(self.active)
        for at in range(0, len(everything), _MOST_ACCOUNTS):
            holds = [each.hold(now, ending=True) for each in everything[at : at + _MOST_ACCOUNTS]]
            self._apply(await self._control.lease(LeaseRequest(self._replica, time.time(), holds)), _by_rule(holds))

    def _go_on(self) -> None:
        if self._asking is None and (self._wanted or self._newcomers or self._due()):
            self._asking = asyncio.get_running_loop().create_task(self._ask_all())

    def _due(self) -> bool:
        return bool(self._outdated) and time.monotonic() >= self.away_until

    async def _ask_all(self) -> None:
        """Ask until nobody waits."""
        try:
            while self._wanted or self._newcomers or self._due():
                await self._ask()
        finally:
            self._asking = None
            self._fail(Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    async def _ask(self) -> None:
        """One question: the accounts and callers that wait longest."""
        now = time.monotonic()
        some = list(itertools.islice(self._wanted, _MOST_ACCOUNTS))
        waiting = {each: self._wanted.pop(each) for each in some}
        holds = self._holds(some, now)
        callers = [newcomer for newcomer, _ in itertools.islice(self._newcomers.values(), _MOST_CALLERS)]
        again = list(itertools.islice(self._outdated, _MOST_CALLERS - len(callers)))
        for key_id in again:
            del self._outdated[key_id]
        callers += [RulesQuery(self.terms[key_id].key, "", NO_AMOUNTS) for key_id in again if key_id in self.terms]
        self._asked = {each.key.id for each in callers}
        try:
            answer = await self._control.lease(_question(self._replica, holds, callers))
            self._answered_at, self.away_until = time.monotonic(), 0.0
            self._heard(answer, callers, _by_rule(holds))
            for future in waiting.values():
                _resolve(future, None)
        except Exception as error:
            self._outdated.update(dict.fromkeys(again))
            self._refused(error, waiting)
        finally:
            self._asked = set()
            for future in waiting.values():
                _resolve(future, Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    def _holds(self, some: Sequence[Allowance], now: float) -> list[LeaseReport]:
        if not some:
            return []
        # One question more costs as much as several accounts in the same one.
        soon = (each for each in self.active if now - each.synced_at > _SOON_SECONDS and each not in some)
        along = list(itertools.islice(soon, _MOST_ALONG))
        return [*(each.hold(now) for each in some), *(each.hold(now, keeping=True) for each in along)]

    def _heard(self, answer: LeaseResponse, callers: Sequence[RulesQuery], told: Mapping[str, LeaseReport]) -> None:
        """Take what was granted, and the terms of the callers that were answered for: an older control answers for one."""
        answered = [] if answer.rules is None else [answer.rules, *answer.other_rules]
        met = []
        for newcomer, rules in zip(callers, answered, strict=False):
            met.append((newcomer, [self._allowance(rule) for rule in rules]))
        self._apply(answer, told)
        for newcomer, allowances in met:
            self._remember(Terms(newcomer.key, allowances), known=newcomer.minimum == NO_AMOUNTS)
        for newcomer in callers[len(met) :]:
            if newcomer.minimum == NO_AMOUNTS:
                self._outdated[newcomer.key.id] = None

    def _remember(self, terms: Terms, *, known: bool) -> None:
        key_id = terms.key.id
        if not known:
            _resolve(self._newcomers.pop(key_id)[1], terms)
        if key_id not in self._asked or (known and key_id not in self.terms):
            return  # forgotten meanwhile
        if key_id not in self.terms and len(self.terms) >= _MOST_KEYS:
            self.terms.clear()
            self._by_subject.clear()
            self._outdated.clear()
            self._allowances = {each.rule.id: each for each in self.active}
        if (before := self.terms.get(key_id)) is not None:
            self._index(before, add=False)
        self.terms[key_id] = terms
        self._index(terms, add=True)
        self._forgotten.pop(key_id, None)

    def _index(self, terms: Terms, *, add: bool) -> None:
        key = terms.key
        of = (
            ("organization", key.organization_id),
            ("project", key.project_id),
            ("user", key.user_id),
            ("key", key.id),
        )
        for subject in of:
            if add:
                self._by_subject.setdefault(subject, set()).add(key.id)
            elif keys := self._by_subject.get(subject):
                keys.discard(key.id)
                if not keys:
                    del self._by_subject[subject]

    def _refused(self, error: Exception, waiting: Mapping[Allowance, asyncio.Future[Exception | None]]) -> None:
        """Nobody answers: accounts go on by what is known, for a while; callers that nobody knows can't."""
        now = time.monotonic()
        self.away_until = now + _AWAY_SECONDS
        if not isinstance(error, Unavailable):
            _log.error("limits could not be asked for", exc_info=error)
        trusted = isinstance(error, Unavailable) and now - self._answered_at <= _TRUST_SECONDS
        # Whoever came meanwhile would wait as long, for the same.
        for each, future in (*waiting.items(), *self._wanted.items()):
            if trusted:
                each.refill(now)
            _resolve(future, None if trusted else error)
        self._wanted.clear()
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Nobody is left waiting."""
        for accounts in self._wanted.values():
            _resolve(accounts, error)
        for _, terms in self._newcomers.values():
            _resolve(terms, error)
        self._wanted.clear()
        self._newcomers.clear()

    def _allowance(self, rule: Rule) -> Allowance:
        found = self._allowances.get(rule.id)
        if found is None:
            found = self._allowances[rule.id] = Allowance(rule)
            if rule.period is not None and not rule.hard:
                self.active.add(found)  # nothing will be short of it: it is settled when it is time
        elif found.rule != rule:
            found.change(rule)
        return found

    def _apply(self, answer: LeaseResponse, told: Mapping[str, LeaseReport]) -> None:
        now = time.monotonic()
        for grant in answer.grants:
            allowance = self._allowances.get(grant.rule_id)
            if allowance is None:
                continue
            allowance.take(grant, told.get(grant.rule_id), now)
            if allowance.sleeping:
                self.active.discard(allowance)
            else:
                self.active.add(allowance)
        for rule in told.keys() - {grant.rule_id for grant in answer.grants}:
            # It was taken away.
            if (gone := self._allowances.pop(rule, None)) is not None:
                self.active.discard(gone)


def _bare(key: Key) -> Key:
    """What decides by which rules a key is bound; the models it names may be thousands, and would be kept and sent along."""
    return replace(key, models=None, refused_models=frozenset(), own_models=frozenset(), sources=None)


def _question(replica: str, holds: Sequence[LeaseReport], callers: Sequence[RulesQuery]) -> LeaseRequest:
    """The first caller stands where older controls look for the only one."""
    ask = LeaseRequest(replica, time.time(), holds)
    if not callers:
        return ask
    first, *others = callers
    return ask._replace(key=first.key, model=first.model, minimum=first.minimum, other_queries=others)


def _by_rule(holds: Iterable[LeaseReport]) -> dict[str, LeaseReport]:
    return {hold.rule_id: hold for hold in holds}


def _resolve(future: asyncio.Future[Terms | Exception] | asyncio.Future[Exception | None], value: object) -> None:
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]
