"""Rounds are fair: each target in turn, slow ones in the first rounds only, failed ones dropped."""

from __future__ import annotations

from .load_driver import LoadError
from .results import Results
from .run import SLOW_ROUNDS, noted, taking_part
from .target import Started

PROXIES = [Started(name, 1, 1, {}) for name in ("gateway", "nginx", "litellm")]


def names(results: Results, number: int) -> list[str]:
    return [proxy.name for proxy in taking_part(results, PROXIES, number)]


def test_each_round_starts_with_another_target() -> None:
    assert {names(Results(), number)[0] for number in (0, 1)} == {"gateway", "nginx"}
    assert set(names(Results(), 0)) == {"gateway", "nginx", "litellm"}


def test_slow_targets_take_part_in_the_first_rounds_only() -> None:
    assert "litellm" in names(Results(), SLOW_ROUNDS - 1)
    assert "litellm" not in names(Results(), SLOW_ROUNDS)


def test_targets_that_fail_under_load_are_recorded_and_dropped() -> None:
    results = Results()
    with noted(results, PROXIES[1]):
        raise LoadError("502")
    assert results.skipped == {"nginx": "failed under load: 502"}
    assert "nginx" not in names(results, 0)
