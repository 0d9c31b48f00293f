"""LoRA adapters on the token path: their base model's engine serves them, and its prices and limits apply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from sqlalchemy import delete, update

from llmariner.limits.rules import Limits, Subject
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.tables import projects
from llmariner.usage.cost_breakdown import cost_breakdown
from llmariner.usage.tables import prices

from .caller import Answer, Caller
from .running_platform import Platform

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


def test_a_lora_adapter_has_its_base_models_price(platform: Platform, base: str) -> None:
    tuned = platform.model("ft:dear:x", base=base)
    request = answered(platform.caller, tuned)
    row = platform.row(request)
    assert row["completion_tokens"] > 0
    cost = row["completion_tokens"] * 1000 + 11
    assert (row["model"], row["price_id"], row["cost"]) == (tuned, "price_dear", cost)
    reported = cost_breakdown(platform.context.database, request)
    assert reported["rebuilt_equals_stored"]
    assert sum(item["amount_usd"] for item in reported["line_items"]) == pytest.approx(reported["amount"]["value"])
    other = platform.model("another", "--tokens", "4")
    assert platform.row(answered(platform.caller, other))["price_id"] == "price_all"


def test_a_lora_adapter_with_a_price_has_its_own(platform: Platform, base: str) -> None:
    tuned = platform.model("ft:dear:priced", base=base)
    with platform.context.database.write() as session:
        session.add(prices, id="price_tuned", model=tuned, request=5, **_RATES)
    assert platform.row(answered(platform.caller, tuned))["price_id"] == "price_tuned"


def test_a_restriction_on_a_model_applies_to_its_adapters(platform: Platform, base: str) -> None:
    caller = platform.tenant("denied")
    tuned = platform.model("ft:dear:mine", base=base, project_id="proj_denied")
    assert asyncio.run(caller.chat(tuned)).status == 200
    with platform.context.database.write() as session:
        denied = {"model_mode": "deny", "model_ids": json.dumps([base])}
        session.run(update(projects).where(projects.c.id == "proj_denied").values(**denied))
    other = platform.key(
        "other", owner=KeyOwner(platform.owner.user_id, "proj_denied", platform.owner.organization_id)
    )[1]
    assert [asyncio.run(other.chat(name)).status for name in (base, tuned)] == [403, 403]


def test_limits_of_a_model_count_requests_for_its_adapters(platform: Platform, base: str) -> None:
    platform.tenant("adapted")
    organization, project = platform.owner.organization_id, "proj_adapted"
    tuned = [platform.model(f"ft:dear:{each}", base=base, project_id=project) for each in "ab"]
    limits, subject = Limits(platform.context.database), Subject(organization, "project", project)
    limits.put(None, subject, base, {"requests_per_day": 5})
    limits.put(None, subject, tuned[1], {"requests_per_day": 1})
    caller = platform.key(
        "adapted, limited", limited=True, owner=KeyOwner(platform.owner.user_id, project, organization)
    )[1]

    async def scenario() -> list[Answer]:
        asked = [tuned[0], tuned[1], tuned[1], base, tuned[0], base, tuned[0], base]
        return [await caller.chat(name, max_tokens=1) for name in asked]

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers] == [200, 200, 429, 200, 200, 200, 429, 429]
    reported = [answers[index].headers["x-ratelimit-limit-requests"] for index in (0, 3)]
    left = [answers[index].headers["x-ratelimit-remaining-requests"] for index in (0, 3, 4)]
    assert reported[0] == reported[1] != "5", "the narrowest limit per minute is reported"
    assert left[0] > left[1] > left[2]


def test_an_adapters_requests_use_slots_of_its_base_models_limit(platform: Platform, base: str) -> None:
    platform.tenant("placed")
    organization, project = platform.owner.organization_id, "proj_placed"
    tuned = platform.model("ft:dear:placed", base=base, project_id=project)
    Limits(platform.context.database).put(
        None, Subject(organization, "project", project), base, {"concurrent_requests": 1, "tokens_per_day": 100_000}
    )
    caller = platform.key(
        "placed, limited", limited=True, owner=KeyOwner(platform.owner.user_id, project, organization)
    )[1]

    async def scenario() -> None:
        answer = await caller.stream(tuned, x_script={"token_interval_ms": 50}, max_tokens=1000)
        await answer.until(b"data: ")
        assert (await caller.chat(base, max_tokens=1)).status == 429
        assert (await caller.chat(tuned, max_tokens=1)).status == 429
        assert (await caller.chat(tuned, max_tokens=200_000)).status == 429
        answer.hang_up()
        for _ in range(100):
            if (await caller.chat(tuned, max_tokens=1)).status == 200:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the place never came back")

    asyncio.run(scenario())
