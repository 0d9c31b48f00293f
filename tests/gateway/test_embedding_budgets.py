"""Embeddings under a hard budget: texts, lists and token ids, and engines with wrong usage."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from llmariner.limits.budgets import Budget, NewBudget
from llmariner.limits.rules import Subject
from llmariner.usage.tables import prices

from .caller import Answer, Caller
from .running_platform import Platform, eventually

TOKEN = 1000
NUMBERS = itertools.count()
INPUTS: list[Any] = ["a b c", ["a", "b c"], [1, 2, 3], [[1, 2], [3]], ["a"] * 50]


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("priced-vectors", task="embed", capacity=64)
    price = {"prompt": TOKEN * 10**6, "cached_prompt": TOKEN * 10**6, "completion": 10**12, "request": 0}
    with platform.context.database.write() as session:
        session.add(prices, id="price_vectors", model=name, valid_from=1.0, valid_to=None, created_at=1, **price)
    asyncio.run(platform.caller.call("/v1/embeddings", {"model": name, "input": "a"}))
    return name


def tenant(platform: Platform, tokens: int) -> tuple[Caller, Budget]:
    name = f"vectors-{next(NUMBERS)}"
    caller = platform.tenant(name)
    subject = Subject(platform.owner.organization_id, "project", f"proj_{name}")
    return caller, platform.context.budgets.put(None, subject, "total", NewBudget(tokens * TOKEN))


def embedded(caller: Caller, model: str, inputs: Sequence[Any]) -> list[Answer]:
    async def scenario() -> list[Answer]:
        asked = (caller.call("/v1/embeddings", {"model": model, "input": each}) for each in inputs)
        return await asyncio.gather(*asked)

    return asyncio.run(scenario())


def settled(platform: Platform, budget: Budget, model: str, least: int = 1) -> int:
    """What the budget and the ledger agree on, once it is `least` or more."""

    def spent() -> int:
        return sum(row["cost"] for row in platform.ledger(model) if row["project_id"] == budget.subject.id)

    def agreed() -> bool:
        return platform.context.leases.quota_states([budget.id])[budget.id].spent == spent() >= least

    eventually(agreed, seconds=30, what="the settlement of the last of it")
    return spent()


def test_each_input_format_costs_its_tokens(platform: Platform, model: str) -> None:
    caller, budget = tenant(platform, 100_000)
    answers = embedded(caller, model, INPUTS)
    assert [answer.status for answer in answers] == [200] * len(INPUTS)
    used = sum(answer.json()["usage"]["prompt_tokens"] for answer in answers)
    assert used == 3 + 3 + 3 + 3 + 50
    assert settled(platform, budget, model, used * TOKEN) == used * TOKEN


def test_concurrent_requests_never_overspend(platform: Platform, model: str) -> None:
    caller, budget = tenant(platform, 900)
    statuses = {answer.status for answer in embedded(caller, model, INPUTS * 30)}
    assert statuses == {200, 429}
    assert settled(platform, budget, model) <= budget.amount
