"""The lease protocol with the control plane: rules of callers, and leases of quota.

One request is in flight at a time, so that reports and grants of a rule alternate. Each carries up to some hundred
reports and queries: pending ones first, then keys whose rules changed.
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
# How long the last leases and limits stay valid while the control plane is unavailable.
_OFFLINE_SECONDS = 600.0
# The interval of attempts while the control plane is unavailable.
_RETRY_SECONDS = 1.0
_ALL_MODELS = "*"


class CallerLimits:
    """The limits and budgets of one key.

    `named_models`: models with limits of their own. There may be hundreds, so the `ApplicableLimits` of each is built
    for its first request.
    """

    __slots__ = ("_by_model", "_quotas", "default", "key", "named_models")

    def __init__(self, key: Key, quotas: list[LeasedQuota]) -> None:
        self.key = key
        self._quotas = quotas
        self.named_models = {each.rule.model for each in quotas} - {_ALL_MODELS}
        self.default = self._build()
        self._by_model: dict[str, ApplicableLimits] = {}

    def for_model(self, model: str) -> ApplicableLimits:
        """The limits of requests for a model."""
        applicable = self._by_model.get(model)
        if applicable is None:
            if model not in self.named_models:
                return self.default
            applicable = self._by_model[model] = self._build(model)
        return applicable

    def for_adapter(self, name: str, base: str) -> ApplicableLimits:
        """The limits of requests for an adapter, those of its base model included."""
        return self._build(name, base)

    def _build(self, *models: str) -> ApplicableLimits:
        names = (_ALL_MODELS, *models)
        return ApplicableLimits([each for each in self._quotas if each.rule.model in names])


class LeaseClient:
    """The limits of cached keys, and the leases of their rules. Not thread-safe: all calls come from one event loop.

    `active`: quotas that have something to report. `unavailable_until`: monotonic time of the next attempt after an error.
    """

    def __init__(self, control_plane: ControlPlane, instance: str | None = None) -> None:
        self._control_plane = control_plane
        self._instance = instance or instance_id()
        self.limits_by_key: dict[str, CallerLimits] = {}
        self.active: set[LeasedQuota] = set()
        self.unavailable_until = 0.0
        self._quotas: dict[str, LeasedQuota] = {}
        # Limits of invalidated keys: used while the control plane is unavailable.
        self._stale: dict[str, CallerLimits] = {}
        self._by_subject: dict[tuple[str, str], set[str]] = {}
        self._pending_syncs: dict[LeasedQuota, asyncio.Future[Exception | None]] = {}
        self._pending_lookups: dict[str, tuple[RulesQuery, asyncio.Future[CallerLimits | Exception]]] = {}
        self._to_refresh: dict[str, None] = {}
        self._keys_in_flight: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._last_response_at = time.monotonic()

    async def sync(self, quotas: Iterable[LeasedQuota]) -> None:
        """Report these quotas and renew their leases. Concurrent calls share one request. Raises Unavailable."""
        loop, answers = asyncio.get_running_loop(), []
        for each in quotas:
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

    async def fetch_limits(self, key: Key, model: str, prompt_tokens: int) -> CallerLimits:
        """Fetch the limits of a key, with a first lease. Returns stale ones, if any, instead of raising Unavailable."""
        waiting = self._pending_lookups.get(key.id)
        if waiting is None:
            answer: asyncio.Future[CallerLimits | Exception] = asyncio.get_running_loop().create_future()
            waiting = self._pending_lookups[key.id] = (
                RulesQuery(_without_model_lists(key), model, Amounts(1, prompt_tokens, 1)),
                answer,
            )
        self._ensure_running()
        await asyncio.wait([waiting[1]])
        found = waiting[1].result()
        if isinstance(found, Unavailable) and (stale := self._stale.get(key.id)) is not None:
            return stale
        if isinstance(found, Exception):
            raise found
        return found

    def invalidate_key(self, key_id: str) -> None:
        """The key itself changed: its limits are fetched before its next request."""
        self._keys_in_flight.discard(key_id)
        if (limits := self.limits_by_key.pop(key_id, None)) is not None:
            self._index(limits, add=False)
            self._stale[key_id] = limits
        if len(self._stale) > _MAX_KEYS:
            self._stale.clear()

    def invalidate_subjects(self, subjects: Collection[tuple[str, str]] | None) -> None:
        """Rules of these subjects (kind, id) changed, None: of any. Their keys' limits are refreshed in the background."""
        if subjects is None:
            concerned: Iterable[str] = self.limits_by_key
        else:
            concerned = itertools.chain.from_iterable(self._by_subject.get(subject, ()) for subject in subjects)
        self._to_refresh.update(dict.fromkeys(concerned))
        # The response in flight may have been read before the change.
        self._to_refresh.update(dict.fromkeys(self._keys_in_flight))
        self._ensure_running()

    async def close(self) -> None:
        """Return all leases. Raises Unavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        now, everything = time.monotonic(), list(self.active)
        for at in range(0, len(everything), _MAX_REPORTS):
            reports = [each.report(now, release_all=True) for each in everything[at : at + _MAX_REPORTS]]
            self._apply_grants(
                await self._control_plane.lease(LeaseRequest(self._instance, time.time(), reports)), _by_rule(reports)
            )

    def _ensure_running(self) -> None:
        if self._task is None and (self._pending_syncs or self._pending_lookups or self._has_due_refresh()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _has_due_refresh(self) -> bool:
        return bool(self._to_refresh) and time.monotonic() >= self.unavailable_until

    async def _run(self) -> None:
        """Exchange requests and responses until nothing is pending."""
        try:
            while self._pending_syncs or self._pending_lookups or self._has_due_refresh():
                await self._exchange()
        finally:
            self._task = None
            self._fail_waiting(Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    async def _exchange(self) -> None:
        """One request: the reports and queries that have been pending longest."""
        now = time.monotonic()
        some = list(itertools.islice(self._pending_syncs, _MAX_REPORTS))
        waiting = {each: self._pending_syncs.pop(each) for each in some}
        reports = self._reports(some, now)
        queries = [query for query, _ in itertools.islice(self._pending_lookups.values(), _MAX_QUERIES)]
        refreshing = list(itertools.islice(self._to_refresh, _MAX_QUERIES - len(queries)))
        for key_id in refreshing:
            del self._to_refresh[key_id]
        queries += [
            RulesQuery(self.limits_by_key[key_id].key, "", NO_AMOUNTS)
            for key_id in refreshing
            if key_id in self.limits_by_key
        ]
        self._keys_in_flight = {each.key.id for each in queries}
        try:
            answer = await self._control_plane.lease(_lease_request(self._instance, reports, queries))
            self._last_response_at, self.unavailable_until = time.monotonic(), 0.0
            self._apply_response(answer, queries, _by_rule(reports))
            for future in waiting.values():
                _resolve(future, None)
        except Exception as error:
            self._to_refresh.update(dict.fromkeys(refreshing))
            self._on_error(error, waiting)
        finally:
            self._keys_in_flight = set()
            for future in waiting.values():
                _resolve(future, Unavailable("This process ends. Try again.", headers={"retry-after": "1"}))

    def _reports(self, some: Sequence[LeasedQuota], now: float) -> list[LeaseReport]:
        if not some:
            return []
        # An additional request costs as much as several additional reports in this one.
        soon = (each for each in self.active if now - each.synced_at > _SOON_SECONDS and each not in some)
        along = list(itertools.islice(soon, _MAX_EXTRA_REPORTS))
        return [*(each.report(now) for each in some), *(each.report(now, keep_remaining=True) for each in along)]

    def _apply_response(
        self, answer: LeaseResponse, queries: Sequence[RulesQuery], reports: Mapping[str, LeaseReport]
    ) -> None:
        """Apply grants, and store the limits of the queries.

        A control plane of an earlier release answers the first query only.
        """
        rules_by_query = [] if answer.rules is None else [answer.rules, *answer.other_rules]
        resolved = []
        for query, rules in zip(queries, rules_by_query, strict=False):
            resolved.append((query, [self._quota(rule) for rule in rules]))
        self._apply_grants(answer, reports)
        for query, quotas in resolved:
            self._store(CallerLimits(query.key, quotas), is_refresh=query.minimum == NO_AMOUNTS)
        for query in queries[len(resolved) :]:
            if query.minimum == NO_AMOUNTS:
                self._to_refresh[query.key.id] = None

    def _store(self, limits: CallerLimits, *, is_refresh: bool) -> None:
        key_id = limits.key.id
        if not is_refresh:
            _resolve(self._pending_lookups.pop(key_id)[1], limits)
        if key_id not in self._keys_in_flight or (is_refresh and key_id not in self.limits_by_key):
            return  # invalidated in the meantime
        if key_id not in self.limits_by_key and len(self.limits_by_key) >= _MAX_KEYS:
            self.limits_by_key.clear()
            self._by_subject.clear()
            self._to_refresh.clear()
            self._quotas = {each.rule.id: each for each in self.active}
        if (before := self.limits_by_key.get(key_id)) is not None:
            self._index(before, add=False)
        self.limits_by_key[key_id] = limits
        self._index(limits, add=True)
        self._stale.pop(key_id, None)

    def _index(self, limits: CallerLimits, *, add: bool) -> None:
        key = limits.key
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
        """Refill quotas locally for a bounded time while the control plane is unavailable; fail pending queries."""
        now = time.monotonic()
        self.unavailable_until = now + _RETRY_SECONDS
        if not isinstance(error, Unavailable):
            _log.error("leasing quota failed", exc_info=error)
        trusted = isinstance(error, Unavailable) and now - self._last_response_at <= _OFFLINE_SECONDS
        # Syncs that were requested in the meantime would fail in the same way.
        for each, future in (*waiting.items(), *self._pending_syncs.items()):
            if trusted:
                each.refill_offline(now)
            _resolve(future, None if trusted else error)
        self._pending_syncs.clear()
        self._fail_waiting(error)

    def _fail_waiting(self, error: Exception) -> None:
        """Resolve everything that is pending with an error."""
        for accounts in self._pending_syncs.values():
            _resolve(accounts, error)
        for _, limits in self._pending_lookups.values():
            _resolve(limits, error)
        self._pending_syncs.clear()
        self._pending_lookups.clear()

    def _quota(self, rule: Rule) -> LeasedQuota:
        found = self._quotas.get(rule.id)
        if found is None:
            found = self._quotas[rule.id] = LeasedQuota(rule)
            if rule.period is not None and not rule.hard:
                self.active.add(found)  # it is never exhausted, so only the renewal interval triggers its report
        elif found.rule != rule:
            found.update_rule(rule)
        return found

    def _apply_grants(self, answer: LeaseResponse, reports: Mapping[str, LeaseReport]) -> None:
        now = time.monotonic()
        for grant in answer.grants:
            quota = self._quotas.get(grant.rule_id)
            if quota is None:
                continue
            quota.apply_grant(grant, reports.get(grant.rule_id), now)
            if quota.is_idle:
                self.active.discard(quota)
            else:
                self.active.add(quota)
        for rule in reports.keys() - {grant.rule_id for grant in answer.grants}:
            # The rule was deleted.
            if (gone := self._quotas.pop(rule, None)) is not None:
                self.active.discard(gone)


def _without_model_lists(key: Key) -> Key:
    """The key without its lists, which may have thousands of entries and do not determine its rules."""
    return replace(
        key, models=None, denied_models=frozenset(), own_models=frozenset(), aliases={}, allowed_networks=None
    )


def _lease_request(instance: str, reports: Sequence[LeaseReport], queries: Sequence[RulesQuery]) -> LeaseRequest:
    """The first query has fields of its own, where a control plane of an earlier release reads its only one."""
    request = LeaseRequest(instance, time.time(), reports)
    if not queries:
        return request
    first, *others = queries
    return request._replace(key=first.key, model=first.model, minimum=first.minimum, other_queries=others)


def _by_rule(reports: Iterable[LeaseReport]) -> dict[str, LeaseReport]:
    return {report.rule_id: report for report in reports}


def _resolve(
    future: asyncio.Future[CallerLimits | Exception] | asyncio.Future[Exception | None], value: object
) -> None:
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]
