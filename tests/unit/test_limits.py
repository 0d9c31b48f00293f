"""Limits of a key: what is counted, what is told of it, and that it comes back with time."""

from __future__ import annotations

import re
import time

import pytest

from llmariner.errors import RateLimited
from llmariner.gateway.limits import Limits


def headers(found: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in found}


def refused(limits: Limits, key: str = "key") -> RateLimited:
    with pytest.raises(RateLimited) as error:
        limits.admit(key, unlimited=False)
    return error.value


def exhausted(limits: Limits) -> RateLimited:
    """Take requests until there are none."""
    for _ in range(2000):
        try:
            limits.admit("key", unlimited=False)
        except RateLimited as error:
            return error
    raise AssertionError


def seconds(text: str) -> float:
    """A duration as OpenAI writes it."""
    match = re.fullmatch(r"(?:(\d+)m)?(?:([\d.]+)s)?|(\d+)ms", text)
    assert match, text
    return int(match[1] or 0) * 60 + float(match[2] or 0) + int(match[3] or 0) / 1000


def test_each_request_is_told_what_is_left() -> None:
    limits = Limits(10, 1000)
    first, second = (headers(limits.admit("key", unlimited=False)) for _ in range(2))
    assert (first["limit-requests"], first["limit-tokens"]) == ("10", "1000")
    assert (first["remaining-requests"], second["remaining-requests"]) == ("9", "8")
    assert (first["remaining-tokens"], first["reset-tokens"]) == ("1000", "0ms")
    assert 5 < seconds(first["reset-requests"]) <= 6
    assert 11 < seconds(second["reset-requests"]) <= 12


def test_requests_over_the_limit_are_refused_until_one_comes_back() -> None:
    limits = Limits(3, 1000)
    for _ in range(3):
        limits.admit("key", unlimited=False)
    error = refused(limits)
    assert error.status == 429
    assert "for requests: 3 per minute" in error.message
    assert error.headers["retry-after"] == "20"
    assert 19_000 < int(error.headers["retry-after-ms"]) <= 20_000
    assert error.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_refused_request_costs_nothing() -> None:
    limits = Limits(1, 1000)
    limits.admit("key", unlimited=False)
    waits = [int(refused(limits).headers["retry-after-ms"]) for _ in range(5)]
    assert waits == sorted(waits, reverse=True)


def test_tokens_are_charged_after_the_fact_and_may_be_overdrawn() -> None:
    limits = Limits(100, 60)
    limits.admit("key", unlimited=False)
    limits.charge("key", 150)
    error = refused(limits)
    assert "for tokens: 60 per minute" in error.message
    assert error.headers["retry-after"] == "91"
    assert error.headers["x-ratelimit-remaining-tokens"] == "0"
    assert 148 < seconds(error.headers["x-ratelimit-reset-tokens"]) <= 150


def test_what_was_used_comes_back_steadily() -> None:
    limits = Limits(600, 1_000_000)  # one every 100 ms
    wait = int(exhausted(limits).headers["retry-after-ms"]) / 1000
    assert 0 < wait <= 0.101
    time.sleep(wait + 0.01)
    limits.admit("key", unlimited=False)


def test_it_never_holds_more_than_its_size() -> None:
    limits = Limits(60_000, 1000)
    limits.admit("key", unlimited=False)
    time.sleep(0.02)
    assert headers(limits.admit("key", unlimited=False))["remaining-requests"] == "59999"


def test_keys_do_not_share_a_limit() -> None:
    limits = Limits(1, 1000)
    limits.admit("a", unlimited=False)
    limits.admit("b", unlimited=False)
    refused(limits, "a")


def test_a_key_without_limits_is_told_none() -> None:
    limits = Limits(1, 1)
    for _ in range(5):
        assert limits.admit("key", unlimited=True) == []
        limits.charge("key", 1000)


def test_charging_a_key_that_was_never_admitted_does_nothing() -> None:
    limits = Limits(5, 10)
    limits.charge("key", 1000)
    assert headers(limits.admit("key", unlimited=False))["remaining-tokens"] == "10"


def test_the_number_of_keys_remembered_is_bounded() -> None:
    limits = Limits(1, 1000)
    limits.admit("first", unlimited=False)
    for number in range(50_000):
        limits.admit(str(number), unlimited=False)
    limits.admit("first", unlimited=False)  # forgotten meanwhile
    refused(limits, "49999")
