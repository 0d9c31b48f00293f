"""Slices in one instance: used locally, leased together, returned, and reported in OpenAI's headers and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from llmariner.errors import RateLimited, Unavailable
from llmariner.gateway.control_plane.port import Changes, Key, LeaseRequest, LeaseResponse, ModelState
from llmariner.gateway.limits.applicable_limits import max_cost
from llmariner.gateway.limits.limiter import Limiter
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.responses.limit_errors import format_dollars, format_duration
from llmariner.limits.leases import Leases, default_limit_id
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings

Result = TypeVar("Result")
KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, unlimited=False)
RULE = default_limit_id(KEY.id)


class RecordingControlPlane:
    """The control plane as far as limits go, on a database of its own; it may be away."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.asks: list[LeaseRequest] = []
        self.away = False

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        self.asks.append(ask)
        await asyncio.sleep(0.01)
        if self.away:
            raise Unavailable("away")
        return self.leases.lease(ask)

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        raise NotImplementedError

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

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        raise NotImplementedError

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        raise NotImplementedError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(DatabaseSettings(f"sqlite:///{tmp_path}/limits.db"))
    upgrade(made)
    yield made
    made.close()


def new_control_plane(database: Database, **most: int) -> RecordingControlPlane:
    return RecordingControlPlane(Leases(database, most))


def run(work: Awaitable[Result]) -> Result:
    async def whole() -> Result:
        return await work

    return asyncio.run(whole())


def headers(found: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in found}


async def rejection(limits: Limiter, prompt: int = 1, answer: int | None = 1) -> RateLimited:
    with pytest.raises(RateLimited) as error:
        await limits.reserve(KEY, "m", prompt, answer)
    return error.value


def test_only_the_first_request_fetches_a_lease_while_quota_is_plentiful(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=6400)

    async def work() -> None:
        limits = Limiter(control)
        await limits.reserve(KEY, "m", 1, 1)
        for _ in range(99):
            assert limits.try_reserve(KEY, "m", 1, 1) is not None
        assert limits.try_reserve(KEY, "m", 1, 1) is None

    run(work())
    assert len(control.asks) == 1


def test_concurrent_requests_share_one_fetch(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=6400)

    async def work() -> None:
        limits = Limiter(control)
        await asyncio.gather(*(limits.reserve(KEY, "m", 1, 1) for _ in range(1000)))

    run(work())
    assert len(control.asks) <= 6


def test_remaining_quota_is_reported(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=10, tokens_per_minute=1000)

    async def work() -> list[dict[str, str]]:
        limits, reported = Limiter(control), []
        for _ in range(3):
            reserved = await limits.reserve(KEY, "m", 50, 50)
            reported.append(headers(reserved.applicable.headers()))
            reserved.settle(10, 0)
        return reported

    reported = run(work())
    assert [each["remaining-requests"] for each in reported] == ["9", "8", "7"]
    # A hundred are reserved, ten of them used.
    assert [each["remaining-tokens"] for each in reported] == ["900", "890", "880"]
    assert {(each["limit-requests"], each["limit-tokens"]) for each in reported} == {("10", "1000")}
    assert {(each["reset-requests"], each["reset-tokens"]) for each in reported} == {("1m0s", "1m0s")}


def test_rejections_fetch_no_lease(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=3)

    async def work() -> RateLimited:
        limits = Limiter(control)
        for _ in range(3):
            await limits.reserve(KEY, "m", 1, 1)
        first = await rejection(limits)
        before = len(control.asks)
        for _ in range(1000):
            await rejection(limits)
        assert len(control.asks) == before
        return first

    error = run(work())
    assert 58 <= int(error.headers["retry-after"]) <= 62
    assert error.details == {"limit": RULE}
    assert "requests per min (RPM): Limit 3, Requested 1" in error.message
    assert "the API key key_1" in error.message


def test_a_shutdown_returns_all_quota(database: Database) -> None:
    control = new_control_plane(database, requests_per_day=100)

    async def work() -> None:
        first, second = Limiter(control, "req_a"), Limiter(control, "req_b")
        (await first.reserve(KEY, "m", 1, 1)).settle(2, 0)
        await first.close()
        for _ in range(99):
            (await second.reserve(KEY, "m", 1, 1)).settle(2, 0)
        assert "requests per day (RPD)" in (await rejection(second)).message

    run(work())


def test_a_prompt_whose_bound_exceeds_a_small_limit_may_reserve_all_of_it(database: Database) -> None:
    control = new_control_plane(database, tokens_per_minute=1000)

    async def work() -> None:
        limits = Limiter(control)
        reserved = await limits.reserve(KEY, "m", 5000, None)
        assert reserved.tokens == 1000
        reserved.settle(300, 0)
        assert (await limits.reserve(KEY, "m", 300, 400)).tokens == 700
        error = await rejection(limits, 1, 2000)
        assert "Request too large" in error.message

    run(work())


def test_a_response_of_open_length_reserves_a_part_of_a_small_limit(database: Database) -> None:
    async def reserved(most: int) -> int:
        limits = Limiter(new_control_plane(database, tokens_per_minute=most))
        limits.invalidate([], 1)
        return (await limits.reserve(replace(KEY, id=f"key_{most}"), "m", 100, None)).tokens

    assert run(reserved(3200)) == 100 + 200
    assert run(reserved(10**7)) == 100 + 1024


def test_each_of_many_responses_of_open_length_reserves_its_part(database: Database) -> None:
    async def reserved() -> list[int]:
        limits = Limiter(new_control_plane(database, tokens_per_minute=10**7))
        first = await limits.reserve(KEY, "m", 100, None, 3)
        second = limits.try_reserve(KEY, "m", 100, None, 3)
        assert second is not None
        return [first.tokens, second.tokens]

    assert run(reserved()) == [100 + 3 * 1024] * 2


def test_usage_during_an_outage_is_reported_afterwards(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=64)

    async def work() -> None:
        limits = Limiter(control)
        await limits.reserve(KEY, "m", 1, 1)
        control.away = True
        error = await rejection(limits)
        assert error.code == "rate_limit_exceeded"
        limits.invalidate([KEY.id], 0)
        # The rules of the key can't be fetched; the former ones stay in force.
        await rejection(limits)
        control.away = False
        await asyncio.sleep(1.1)
        limits.invalidate([KEY.id], 0)
        await limits.reserve(KEY, "m", 1, 1)

    run(work())


def test_an_unknown_key_is_rejected_during_an_outage(database: Database) -> None:
    control = new_control_plane(database, requests_per_minute=64)
    control.away = True

    async def work() -> None:
        with pytest.raises(Unavailable):
            await Limiter(control).reserve(KEY, "m", 1, 1)

    run(work())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.12, "120ms"), (1.5, "1.5s"), (59, "59s"), (60, "1m0s"), (90, "1m30s"), (86400, "24h0m0s"), (3661, "1h1m1s")],
)
def test_durations_have_openais_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "$0"), (1, "$0.000000001"), (12_500_000_000, "$12.5"), (10**12, "$1,000")]
)
def test_money_is_formatted_exactly(nano: int, text: str) -> None:
    assert format_dollars(nano) == text


@pytest.mark.parametrize("cached", [0, 7, 13])
def test_the_maximum_cost_is_never_too_low(cached: int) -> None:
    for prompt_price, cached_price, answer_price in ((1, 1, 1), (499_999, 500_001, 3), (7, 9_999_999, 1_500_000)):
        price = Price("price_1", prompt_price, cached_price, answer_price, 5)
        counts = {"prompt_tokens": 13, "cached_tokens": cached, "completion_tokens": 29}
        assert price.cost(counts, "succeeded").total <= max_cost(price, 13, 29)
    assert max_cost(Price("price_2", 0, 0, 0, 0), 13, 29) == 0
