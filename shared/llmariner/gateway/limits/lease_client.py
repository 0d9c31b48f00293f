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
from llmariner.gateway.limits.applicable_limits import ApplicableLimits
from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.gateway.requests.request_ids import instance_id

__all__ = ["CallerLimits", "LeaseClient"]

_log = logging.getLogger(__name__)
_MAX_KEYS = 50_000
_MAX_REPORTS = 200
_MAX_QUERIES = 200
_SOON_SECONDS = 1.0
_MAX_EXTRA_REPORTS = 16
# How long the last slices are gone on with while nobody can be asked.
_TRUST_SECONDS = 600.0
# How often it is tried to ask somebody who does not answer.
_AWAY_SECONDS = 1.0
_ALL_MODELS = "*"


class CallerLimits:
    """What binds one key; `named`: the models that limits name. There may be hundreds: what binds requests for one of
    them is put together when the first comes."""

    __slots__ = ("_by_model", "_quotas", "default", "key", "named_models")

    def __init__(self, key: Key, allowances: list[LeasedQuota]) -> None:
        self.key = key
        self._quotas = allowances
        self.named_models = {each.rule.model for each in allowances} - {_ALL_MODELS}
        self.default = self._build()
        self._by_model: dict[str, ApplicableLimits] = {}

    def for_model(self, model: str) -> ApplicableLimits:
        """What binds requests for a model of that name."""
        bound = self._by_model.get(model)
        if bound is None:
            if model not in self.named_models:
                return self.default
            bound = self._by_model[model] = self._build(model)
        return bound

    def for_adapter(self, name: str, base: str) -> ApplicableLimits:
        """What binds an adapter of that name: the limits of its base model, too."""
        return self._build(name, base)

    def _build(self, *models: str) -> ApplicableLimits:
        names = (_ALL_MODELS, *models)
        return ApplicableLimits([each for each in self._quotas if each.rule.model in names])


class LeaseClient:
    """The terms of the keys that this process knows, and their rules' slices.

    `active`: slices that have something to settle. `away_until`: nobody answered, and asking again is of no use before.
    """

    def __init__(self, control_plane: ControlPlane, instance: str | None = None) -> None:
        self._control_plane = control_plane
        self._instance = instance or instance_id()
        self.limits_by_key: dict[str, CallerLimits] = {}
        self.active: set[LeasedQuota] = set()
        self.unavailable_until = 0.0
        self._quotas: dict[str, LeasedQuota] = {}
        # Terms of keys that changed: gone on with while nobody can be asked.
        self._stale: dict[str, CallerLimits] = {}
        self._by_subject: dict[tuple[str, str], set[str]] = {}
        self._pending_syncs: dict[LeasedQuota, asyncio.Future[Exception | None]] = {}
        self._pending_lookups: dict[str, tuple[RulesQuery, asyncio.Future[CallerLimits | Exception]]] = {}
        self._to_refresh: dict[str, None] = {}
        self._keys_in_flight: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._last_response_at = time.monotonic()

    async def sync(self, allowances: Iterable[LeasedQuota]) -> None:
        """Settle these accounts, and get more of what is short; others' wait for the same question. Unavailable."""
        loop, answers = asyncio.get_running_loop(), []
        for each in allowances:
            answer = self._pending_syncs.get(each)
            if answer is None:
                answer = self._pending_syncs[each] = loop.create_future()
            answers.append(answer)
        self._ensure_running()
        if answers:
            await asyncio.wait(answers)
        for answer in answers:
            if (error := answer.result()) is not None:
                raise error

    async def fetch_limits(self, key: Key, model: str, prompt: int) -> CallerLimits:
        """Ask what binds a caller; one known before goes on as it was while nobody can be asked. Unavailable."""
        waiting = self._pending_lookups.get(key.id)
        if waiting is None:
            answer: asyncio.Future[CallerLimits | Exception] = asyncio.get_running_loop().create_future()
            waiting = self._pending_lookups[key.id] = (
                RulesQuery(_without_model_lists(key), model, Amounts(1, prompt, 1)),
                answer,
            )
        self._ensure_running()
        await asyncio.wait([waiting[1]])
        found = waiting[1].result()
        if isinstance(found, Unavailable) and (known := self._stale.get(key.id)) is not None:
            return known
        if isinstance(found, Exception):
            raise found
        return found

    def invalidate_key(self, key_id: str) -> None:
        """The key itself changed: what binds it is asked before its next request."""
        self._keys_in_flight.discard(key_id)
        if (terms := self.limits_by_key.pop(key_id, None)) is not None:
            self._index(terms, add=False)
            self._stale[key_id] = terms
        if len(self._stale) > _MAX_KEYS:
            self._stale.clear()

    def invalidate_subjects(self, subjects: Collection[tuple[str, str]] | None) -> None:
        """Rules of these subjects (kind and id) changed, None: any: whom they bind is asked in the background."""
        if subjects is None:
            concerned: Iterable[str] = self.limits_by_key
        else:
            concerned = itertools.chain.from_iterable(self._by_subject.get(subject, ()) for subject in subjects)
        self._to_refresh.update(dict.fromkeys(concerned))
        # What is being answered just now may have been read before the change.
        self._to_refresh.update(dict.fromkeys(self._keys_in_flight))
        self._ensure_running()

    async def close(self) -> None:
        """Give everything back. Unavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        now, everything = time.monotonic(), list(self.active)
        for at in range(0, len(everything), _MAX_REPORTS):
            holds = [each.report(now, release_all=True) for each in everything[at : at + _MAX_REPORTS]]
            self._apply_grants(
                await self._control_plane.lease(LeaseRequest(self._instance, time.time(), holds)), _by_rule(holds)
            )

    def _ensure_running(self) -> None:
        if self._task is None and (self._pending_syncs or self._pending_lookups or self._has_due_refresh()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _has_due_refresh(self) -> bool:
        return bool(self._to_refresh) and time.monotonic() >= self.unavailable_until

    async def _run(self) -> None:
        """Ask until nobody waits."""
        try:
            while self._pending_syncs or self._pending_lookups or self._has_due_refresh():
                await self._exchange()
        finally:
            self._task = None
            self._fail_waiting(Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    async def _exchange(self) -> None:
        """One question: the accounts and callers that wait longest."""
        now = time.monotonic()
        some = list(itertools.islice(self._pending_syncs, _MAX_REPORTS))
        waiting = {each: self._pending_syncs.pop(each) for each in some}
        holds = self._reports(some, now)
        callers = [newcomer for newcomer, _ in itertools.islice(self._pending_lookups.values(), _MAX_QUERIES)]
        again = list(itertools.islice(self._to_refresh, _MAX_QUERIES - len(callers)))
        for key_id in again:
            del self._to_refresh[key_id]
        callers += [
            RulesQuery(self.limits_by_key[key_id].key, "", NO_AMOUNTS)
            for key_id in again
            if key_id in self.limits_by_key
        ]
        self._keys_in_flight = {each.key.id for each in callers}
        try:
            answer = await self._control_plane.lease(_lease_request(self._instance, holds, callers))
            self._last_response_at, self.unavailable_until = time.monotonic(), 0.0
            self._apply_response(answer, callers, _by_rule(holds))
            for future in waiting.values():
                _resolve(future, None)
        except Exception as error:
            self._to_refresh.update(dict.fromkeys(again))
            self._on_error(error, waiting)
        finally:
            self._keys_in_flight = set()
            for future in waiting.values():
                _resolve(future, Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    def _reports(self, some: Sequence[LeasedQuota], now: float) -> list[LeaseReport]:
        if not some:
            return []
        # One question more costs as much as several accounts in the same one.
        soon = (each for each in self.active if now - each.synced_at > _SOON_SECONDS and each not in some)
        along = list(itertools.islice(soon, _MAX_EXTRA_REPORTS))
        return [*(each.report(now) for each in some), *(each.report(now, keep_remaining=True) for each in along)]

    def _apply_response(
        self, answer: LeaseResponse, callers: Sequence[RulesQuery], told: Mapping[str, LeaseReport]
    ) -> None:
        """Take what was granted, and the terms of the callers that were answered for: an older control answers for one."""
        answered = [] if answer.rules is None else [answer.rules, *answer.other_rules]
        met = []
        for newcomer, rules in zip(callers, answered, strict=False):
            met.append((newcomer, [self._quota(rule) for rule in rules]))
        self._apply_grants(answer, told)
        for newcomer, allowances in met:
            self._store(CallerLimits(newcomer.key, allowances), known=newcomer.minimum == NO_AMOUNTS)
        for newcomer in callers[len(met) :]:
            if newcomer.minimum == NO_AMOUNTS:
                self._to_refresh[newcomer.key.id] = None

    def _store(self, terms: CallerLimits, *, known: bool) -> None:
        key_id = terms.key.id
        if not known:
            _resolve(self._pending_lookups.pop(key_id)[1], terms)
        if key_id not in self._keys_in_flight or (known and key_id not in self.limits_by_key):
            return  # forgotten meanwhile
        if key_id not in self.limits_by_key and len(self.limits_by_key) >= _MAX_KEYS:
            self.limits_by_key.clear()
            self._by_subject.clear()
            self._to_refresh.clear()
            self._quotas = {each.rule.id: each for each in self.active}
        if (before := self.limits_by_key.get(key_id)) is not None:
            self._index(before, add=False)
        self.limits_by_key[key_id] = terms
        self._index(terms, add=True)
        self._stale.pop(key_id, None)

    def _index(self, terms: CallerLimits, *, add: bool) -> None:
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

    def _on_error(self, error: Exception, waiting: Mapping[LeasedQuota, asyncio.Future[Exception | None]]) -> None:
        """Nobody answers: accounts go on by what is known, for a while; callers that nobody knows can't."""
        now = time.monotonic()
        self.unavailable_until = now + _AWAY_SECONDS
        if not isinstance(error, Unavailable):
            _log.error("limits could not be asked for", exc_info=error)
        trusted = isinstance(error, Unavailable) and now - self._last_response_at <= _TRUST_SECONDS
        # Whoever came meanwhile would wait as long, for the same.
        for each, future in (*waiting.items(), *self._pending_syncs.items()):
            if trusted:
                each.refill_offline(now)
            _resolve(future, None if trusted else error)
        self._pending_syncs.clear()
        self._fail_waiting(error)

    def _fail_waiting(self, error: Exception) -> None:
        """Nobody is left waiting."""
        for accounts in self._pending_syncs.values():
            _resolve(accounts, error)
        for _, terms in self._pending_lookups.values():
            _resolve(terms, error)
        self._pending_syncs.clear()
        self._pending_lookups.clear()

    def _quota(self, rule: Rule) -> LeasedQuota:
        found = self._quotas.get(rule.id)
        if found is None:
            found = self._quotas[rule.id] = LeasedQuota(rule)
            if rule.period is not None and not rule.hard:
                self.active.add(found)  # nothing will be short of it: it is settled when it is time
        elif found.rule != rule:
            found.update_rule(rule)
        return found

    def _apply_grants(self, answer: LeaseResponse, told: Mapping[str, LeaseReport]) -> None:
        now = time.monotonic()
        for grant in answer.grants:
            allowance = self._quotas.get(grant.rule_id)
            if allowance is None:
                continue
            allowance.apply_grant(grant, told.get(grant.rule_id), now)
            if allowance.is_idle:
                self.active.discard(allowance)
            else:
                self.active.add(allowance)
        for rule in told.keys() - {grant.rule_id for grant in answer.grants}:
            # It was taken away.
            if (gone := self._quotas.pop(rule, None)) is not None:
                self.active.discard(gone)


def _without_model_lists(key: Key) -> Key:
    """What decides by which rules a key is bound; the models it names may be thousands, and would be kept and sent along."""
    return replace(key, models=None, denied_models=frozenset(), own_models=frozenset(), allowed_networks=None)


def _lease_request(replica: str, holds: Sequence[LeaseReport], callers: Sequence[RulesQuery]) -> LeaseRequest:
    """The first caller stands where older controls look for the only one."""
    ask = LeaseRequest(replica, time.time(), holds)
    if not callers:
        return ask
    first, *others = callers
    return ask._replace(key=first.key, model=first.model, minimum=first.minimum, other_queries=others)


def _by_rule(holds: Iterable[LeaseReport]) -> dict[str, LeaseReport]:
    return {hold.rule_id: hold for hold in holds}


def _resolve(
    future: asyncio.Future[CallerLimits | Exception] | asyncio.Future[Exception | None], value: object
) -> None:
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]
