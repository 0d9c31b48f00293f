"""CPU microseconds per request of who calls and how much is left: key, limits of key and project, a budget, headers.

Measured in the gateway's own parts, with slices in hand and nobody to ask, as it is when the function is warm; the share
that this has in a whole request is what the report tells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.gateway.authentication.key_cache import KeyCache
from llmariner.gateway.control_plane.port import (
    Amounts,
    Changes,
    Key,
    LeaseGrant,
    LeaseRequest,
    LeaseResponse,
    ModelState,
    Rule,
)
from llmariner.gateway.limits.applicable_limits import max_cost
from llmariner.gateway.limits.limiter import Limiter
from llmariner.gateway.metering.pricing import Price

COUNT = 20_000
SCOPE = "api.inference.write"
KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset({SCOPE}), None, unlimited=False)
PLENTY = Amounts(10**12, 10**15, 10**9, 10**17)
MOST = {"requests_per_minute": 10**12, "tokens_per_minute": 10**15}
RULES = (
    Rule("limit_1", "org_1", "key", "key_1", "*", MOST),
    Rule("limit_2", "org_1", "project", "proj_1", "*", {**MOST, "concurrent_requests": 10**9}),
    Rule("budget_1", "org_1", "project", "proj_1", "*", period="month", amount=10**18),
)
PRICE = Price("price_1", 150_000_000, 75_000_000, 600_000_000, 0)
USED = {"prompt_tokens": 20, "cached_tokens": 0, "completion_tokens": 8}


class GenerousControlPlane:
    """A control plane with one key, which grants the maximum."""

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
        return KEY

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        return LeaseResponse([LeaseGrant(rule.id, PLENTY, PLENTY, None, 1) for rule in RULES], RULES)

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        raise NotImplementedError

    async def model_state(self, model_id: str) -> ModelState:
        raise NotImplementedError

    async def wake(self, model_id: str) -> None:
        raise NotImplementedError

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        raise NotImplementedError

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        raise NotImplementedError

    async def record_events(self, events: Sequence[dict[str, object]]) -> None:
        raise NotImplementedError

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        raise NotImplementedError


def measure() -> float:
    return asyncio.run(_measure())


async def _measure() -> float:
    control = GenerousControlPlane()
    key_cache, limits = KeyCache(control, "p" * 64, FailedAttemptLimiter(120)), Limiter(control)
    head = {b"authorization": b"Bearer sk-bench", b"content-type": b"application/json", b"host": b"127.0.0.1"}
    asked = (await key_cache.authenticate(head, SCOPE), "bench", 120, 8)
    (await limits.reserve(*asked)).settle(28, 0)
    began = time.thread_time()
    for _ in range(COUNT):
        key = key_cache.cached(head, SCOPE)
        assert key is not None
        reserved = limits.try_reserve(*asked)
        assert reserved is not None
        reserved.applicable.headers()
        if reserved.applicable.budgets:
            limits.try_reserve_money(reserved, max_cost(PRICE, 120, 8))
        reserved.settle(28, PRICE.cost(USED, "succeeded").total)
    return 1e6 * (time.thread_time() - began) / COUNT
