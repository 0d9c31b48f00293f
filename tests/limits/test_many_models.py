"""Limits of very many models slow down neither other requests nor the instance."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.gateway.control_plane.port import Key, Rule
from llmariner.gateway.limits import lease_client as leasing
from llmariner.gateway.limits.applicable_limits import ApplicableLimits
from llmariner.gateway.limits.lease_client import CallerLimits
from llmariner.gateway.limits.leased_quota import LeasedQuota

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, unlimited=False)


def leased_quota(name: str, model: str) -> LeasedQuota:
    return LeasedQuota(Rule(name, "org_1", "project", "proj_1", model, {"requests_per_minute": 5}))


def test_limits_of_a_model_are_computed_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class CountingLimits(ApplicableLimits):
        def __init__(self, allowances: Any) -> None:
            made.append(len(allowances))
            super().__init__(allowances)

    monkeypatch.setattr(leasing, "ApplicableLimits", CountingLimits)
    everywhere = leased_quota("all", "*")
    named = [leased_quota(f"limit_{number}", f"m{number}") for number in range(3000)]
    terms = CallerLimits(KEY, [everywhere, *named])
    assert made == [1]
    assert terms.default.limits == terms.for_model("unnamed").limits == (everywhere,)
    assert terms.for_model("m7").limits == (everywhere, named[7])
    assert terms.for_model("m7") is terms.for_model("m7")
    assert terms.for_adapter("m8", "m9").limits == (everywhere, named[8], named[9])
    assert made == [1, 2, 3]


def test_models_without_their_own_limit_share_the_same_limits() -> None:
    terms = CallerLimits(KEY, [leased_quota("all", "*")])
    assert not terms.named_models
    assert terms.for_model("m") is terms.default
