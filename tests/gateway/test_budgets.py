"""Budgets: the exact spending of many concurrent streams, and the error when a budget is spent."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.limits.budgets import Budget, NewBudget
from llmariner.limits.rules import Subject
from llmariner.platform.events.tables import events
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES
from llmariner.usage.tables import prices

from .caller import Answer, Caller, ConnectionLost
from .running_platform import Platform, eventually

PROMPT, ANSWER = 1_000_000_000, 5_000_000_000
"""Nano-dollars per million tokens: a token of the answer costs 5000."""
TOKEN = ANSWER // 1_000_000


@pytest.fixture(scope="module")
def priced(platform: Platform) -> str:
    """A model with a price."""
    name = platform.model("priced", "--token-interval", "3", capacity=256)
    set_price(platform, name)
    asyncio.run(platform.caller.chat(name, max_tokens=1))
    return name


def set_price(platform: Platform, model: str, **values: Any) -> None:
    row = {"prompt": PROMPT, "cached_prompt": PROMPT // 2, "completion": ANSWER, "request": 100, **values}
    with platform.context.database.write() as session:
        session.add(prices, id=f"price_{model}", model=model, valid_from=1.0, valid_to=None, created_at=1, **row)


@pytest.fixture
def tenant(platform: Platform, request: pytest.FixtureRequest) -> tuple[Caller, Subject]:
    """A caller of a project of its own, and that project."""
    name = f"money-{abs(hash(request.node.name)) % 10**8}"
    owner = platform.owner
    platform.tenant(name)
    mine = KeyOwner(owner.user_id, f"proj_{name}", owner.organization_id)
    new = NewKey(name=f"key of {name}", scopes=OWNER_SCOPES, excluded_from_rate_limiting=True)
    _, secret = platform.context.keys.create(mine, new)
    return Caller(platform.port, secret), Subject(owner.organization_id, "project", f"proj_{name}")


def budget(platform: Platform, subject: Subject, amount: int, period: str = "total", **fields: Any) -> Budget:
    return platform.context.budgets.put(None, subject, period, NewBudget(amount, **fields))


def spent(platform: Platform, subject: Subject, model: str) -> int:
    return sum(row["cost"] for row in platform.ledger(model) if row["project_id"] == subject.id)


def account(platform: Platform, made: Budget) -> int:
    """The spending that the budget reports."""
    return platform.context.leases.quota_states([made.id])[made.id].spent


def test_two_hundred_streams_never_overspend(platform: Platform, priced: str, tenant: tuple[Caller, Subject]) -> None:
    caller, subject = tenant
    most = 60
    # Enough for some ninety of the two hundred, if all completed.
    made = budget(platform, subject, 90 * most * TOKEN)
    dice = random.Random(5)

    async def one(number: int) -> tuple[str, int]:
        kind = ("whole", "disconnected", "refused by the engine", "plain")[number % 4]
        fields: dict[str, Any] = {"max_tokens": dice.randint(most // 2, most)}
        if kind == "refused by the engine":
            fields["x_script"] = {"fail_status": 400}
        if kind == "plain":
            answer = await caller.chat(priced, **fields)
            return kind, answer.status
        answer = await (await caller.stream(priced, **fields)).head()
        if answer.status == 200 and kind == "disconnected":
            with contextlib.suppress(ConnectionLost):
                await answer.until(b'"content":" ', dice.randint(1, 10))
            answer.hang_up()
        elif answer.status == 200:
            await answer.read()
        else:
            await answer.read()
        return kind, answer.status

    async def scenario() -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while True:
            found += await asyncio.gather(*(one(number) for number in range(200)))
            last = await caller.chat(priced, max_tokens=1)
            if last.status == 429 or len(found) >= 4000:
                return found

    found = asyncio.run(scenario())
    eventually(lambda: platform.engine(priced).running == 0, what="the end of all streams")
    statuses = {status for _, status in found}
    assert statuses == {200, 400, 429}
    settled = "the settlement of the last of it"
    eventually(lambda: account(platform, made) == spent(platform, subject, priced), seconds=30, what=settled)
    used = spent(platform, subject, priced)
    print(f"\n{len(found)} requests spent {used} of {made.amount} nano-dollars ({100 * used / made.amount:.2f} %)")
    assert used <= made.amount
    # The remaining amount does not pay for one more token with its prompt.
    assert used > made.amount - 400 * TOKEN


def test_a_spent_budget_is_reported(platform: Platform, priced: str, tenant: tuple[Caller, Subject]) -> None:
    caller, subject = tenant
    made = budget(platform, subject, 20 * TOKEN + 400_000)

    async def scenario() -> list[Answer]:
        return [await caller.chat(priced, max_tokens=15) for _ in range(30)]

    refused = asyncio.run(scenario())[-1]
    error = refused.error()
    assert (refused.status, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert error["budget"] == made.id
    assert "You exceeded your current quota" in error["message"]
    assert f"POST /v1/budgets/{made.id}" in error["message"]
    budget(platform, subject, 10**9)
    assert eventually(lambda: asyncio.run(caller.chat(priced, max_tokens=1)).status == 200, what="the raise") < 5


def test_an_alert_only_budget_emits_its_alert(platform: Platform, priced: str, tenant: tuple[Caller, Subject]) -> None:
    caller, subject = tenant
    made = budget(platform, subject, 10 * TOKEN, "month", alert_ratio=0.5, hard=False)
    statuses = [asyncio.run(caller.chat(priced, max_tokens=8)).status for _ in range(4)]
    assert statuses == [200] * 4
    eventually(lambda: account(platform, made) > made.amount, seconds=30, what="the count")
    with platform.context.database.read() as session:
        reported = session.rows(select(events).where(events.c.subject == f"budgets/{made.id}"))
    assert [row.type for row in reported] == ["ai.llmariner.budget.alert.v1"]
    assert account(platform, made) == spent(platform, subject, priced)


def test_earlier_spending_counts(platform: Platform, priced: str, tenant: tuple[Caller, Subject]) -> None:
    caller, subject = tenant
    asyncio.run(caller.chat(priced, max_tokens=50))
    eventually(lambda: spent(platform, subject, priced) > 50 * TOKEN, what="the ledger")
    budget(platform, subject, 40 * TOKEN, "day")
    assert eventually(lambda: asyncio.run(caller.chat(priced, max_tokens=1)).status == 429, what="the refusal") < 5


def test_a_response_of_open_length_is_bounded_by_the_models_context(
    platform: Platform, priced: str, tenant: tuple[Caller, Subject]
) -> None:
    caller, subject = tenant
    # The engine's context takes 8192 tokens.
    budget(platform, subject, 8000 * TOKEN)
    refused = asyncio.run(caller.chat(priced))
    assert (refused.status, refused.error()["code"]) == (429, "insufficient_quota")
    assert "shorter answer" in refused.error()["message"]
    budget(platform, subject, 10_000 * TOKEN)
    assert eventually(lambda: asyncio.run(caller.chat(priced)).status == 200, what="the raise") < 5


def test_a_new_price_applies_within_five_seconds(platform: Platform, tenant: tuple[Caller, Subject]) -> None:
    caller, subject = tenant
    model = platform.model("dearer", "--tokens", "1")
    set_price(platform, model)
    budget(platform, subject, 1000 * TOKEN)
    assert asyncio.run(caller.chat(model, max_tokens=10)).status == 200
    with platform.context.database.write() as session:
        session.run(prices.update().where(prices.c.model == model).values(valid_to=time.time()))
        dear = {"prompt": PROMPT, "cached_prompt": PROMPT, "completion": 10**6 * ANSWER, "request": 0}
        session.add(prices, id="price_2", model=model, valid_from=time.time(), valid_to=None, created_at=1, **dear)
    assert eventually(lambda: asyncio.run(caller.chat(model, max_tokens=10)).status == 429, what="the price") < 5
