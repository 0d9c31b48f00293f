"""Adapters on the token path: an engine of the base model works for them, and what holds for that model holds for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from sqlalchemy import delete, update

from llmariner.tenancy.keys.store import Owner
from llmariner.tenancy.tables import projects
from llmariner.usage.explanation import explained
from llmariner.usage.tables import prices

from .caller import Caller
from .running import Platform

_RATES = {"prompt": 0, "cached_prompt": 0, "completion": 10**9, "valid_from": 1.0, "valid_to": None, "created_at": 1}


@pytest.fixture(scope="module")
def base(platform: Platform) -> Iterator[str]:
    name = platform.model("dear", "--tokens", "4")
    with platform.context.database.write() as session:
        session.add(prices, id="price_dear", model=name, request=11, **_RATES)
        session.add(prices, id="price_all", model="*", request=1, **_RATES)
    yield name
    with platform.context.database.write() as session:
        session.run(delete(prices).where(prices.c.id.in_(["price_dear", "price_all"])))


def answered(caller: Caller, model: str) -> str:
    answer = asyncio.run(caller.chat(model))
    assert answer.status == 200, answer.body
    return answer.headers["x-request-id"]


def test_an_adapter_costs_what_its_base_model_costs(platform: Platform, base: str) -> None:
    tuned = platform.model("ft:dear:x", base=base)
    request = answered(platform.caller, tuned)
    row = platform.row(request)
    assert row["completion_tokens"] > 0
    cost = row["completion_tokens"] * 1000 + 11
    assert (row["model"], row["price_id"], row["cost"]) == (tuned, "price_dear", cost)
    told = explained(platform.context.database, request)
    assert told["rebuilt_equals_stored"]
    assert sum(item["amount_usd"] for item in told["line_items"]) == pytest.approx(told["amount"]["value"])
    other = platform.model("another", "--tokens", "4")
    assert platform.row(answered(platform.caller, other))["price_id"] == "price_all"


def test_an_adapter_that_has_a_price_costs_that(platform: Platform, base: str) -> None:
    tuned = platform.model("ft:dear:priced", base=base)
    with platform.context.database.write() as session:
        session.add(prices, id="price_tuned", model=tuned, request=5, **_RATES)
    assert platform.row(answered(platform.caller, tuned))["price_id"] == "price_tuned"


def test_who_is_denied_a_model_is_denied_its_adapters(platform: Platform, base: str) -> None:
    caller = platform.tenant("denied")
    tuned = platform.model("ft:dear:mine", base=base, project_id="proj_denied")
    assert asyncio.run(caller.chat(tuned)).status == 200
    with platform.context.database.write() as session:
        denied = {"model_mode": "deny", "model_ids": json.dumps([base])}
        session.run(update(projects).where(projects.c.id == "proj_denied").values(**denied))
    other = platform.key("other", owner=Owner(platform.owner.user_id, "proj_denied", platform.owner.organization_id))[1]
    assert [asyncio.run(other.chat(name)).status for name in (base, tuned)] == [403, 403]
