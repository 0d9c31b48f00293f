"""A hard budget is never overspent, whatever a caller writes into a body, with an engine that obeys each route's fields."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from llmariner.limits.budgets import Budget, NewBudget
from llmariner.limits.rules import Subject
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES
from llmariner.usage.tables import prices

from .caller import Answer, Caller
from .running_platform import Platform, eventually

PRICE = {"prompt": 10**9, "cached_prompt": 10**9, "completion": 5 * 10**9, "request": 0}
TOKEN = 5_000
OPEN = 2_000
"""Tokens of an answer that sets no maximum; the engine's context takes 8192."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def priced(platform: Platform) -> str:
    name = platform.model("bounded", "--tokens", str(OPEN), capacity=64)
    with platform.context.database.write() as session:
        session.add(prices, id="price_bounded", model=name, valid_from=1.0, valid_to=None, created_at=1, **PRICE)
    asyncio.run(platform.caller.chat(name, max_tokens=1))
    return name


def tenant(platform: Platform, amount: int) -> tuple[Caller, Budget]:
    """A caller of a project of its own, and that project's hard budget."""
    owner, name = platform.owner, f"bounds-{next(NUMBERS)}"
    platform.tenant(name)
    mine = KeyOwner(owner.user_id, f"proj_{name}", owner.organization_id)
    made = platform.context.budgets.put(
        None, Subject(owner.organization_id, "project", mine.project_id), "total", NewBudget(amount)
    )
    _, secret = platform.context.keys.create(mine, NewKey(name=f"key of {name}", scopes=OWNER_SCOPES))
    return Caller(platform.port, secret), made


def spent(platform: Platform, made: Budget, model: str) -> int:
    return sum(row["cost"] for row in platform.ledger(model) if row["project_id"] == made.subject.id)


BODIES: list[tuple[str, dict[str, Any], int]] = [
    (CHAT, {"n": 40}, 429),
    (CHAT, {"n": 40, "stream": True}, 429),
    (CHAT, {"n": 100, "max_tokens": 400}, 429),
    (CHAT, {"max_tokens": 10_000, "max_completion_tokens": 1}, 400),
    (CHAT, {"max_completion_tokens": -(10**9)}, 400),
    (COMPLETIONS, {"prompt": ["a"] * 40, "max_tokens": 1000}, 429),
    (COMPLETIONS, {"prompt": [[1]] * 20, "n": 20, "max_tokens": 100}, 429),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 20_000, "max_completion_tokens": 1}, 400),
    (COMPLETIONS, {"prompt": "a", "max_completion_tokens": -(10**9)}, 400),
    (COMPLETIONS, {"prompt": "a", "max_completion_tokens": "x"}, 400),
]


@pytest.mark.parametrize(
    ("path", "fields", "status"), BODIES, ids=[f"{path}-{str(fields)[-50:]}" for path, fields, _ in BODIES]
)
def test_an_engine_never_generates_more_than_the_budget(
    platform: Platform, priced: str, path: str, fields: dict[str, Any], status: int
) -> None:
    # One context, and a half: an answer of open length fits, two do not.
    caller, made = tenant(platform, 12_000 * TOKEN)
    engine = platform.engine(priced)
    before = engine.tokens
    body = {"model": priced, **fields}
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": "a"}]
    answer = asyncio.run(caller.call(path, body))
    assert answer.status == status, answer.body
    assert engine.tokens == before
    assert spent(platform, made, priced) == 0


def hostile(dice: random.Random, model: str) -> tuple[str, bytes]:
    """A body with any of the fields that lengthen answers, twice, contradicting, misspelled or senseless."""
    path = dice.choice([CHAT, COMPLETIONS])
    numbers = [1, 2, 5, 30, 0, -1, -(10**9), 2**31, "7", 3.0, None, True]
    names = ["max_tokens", "max_completion_tokens", "n", "best_of", "max_token", "use_beam_search", "min_tokens"]
    members: list[tuple[str, Any]] = [("model", model), ("stream", dice.random() < 0.5)]
    members += [(dice.choice(names), dice.choice(numbers)) for _ in range(dice.randint(0, 4))]
    prompt: Any = dice.choice(["a", ["a", "b", "c"], [1, 2, 3], [[1], [2]]])
    members.append(("messages", [{"role": "user", "content": "a b"}]) if path == CHAT else ("prompt", prompt))
    return path, ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}").encode()


@pytest.mark.parametrize("seed", range(3))
def test_a_hard_budget_is_never_overspent_for_any_body(platform: Platform, priced: str, seed: int) -> None:
    dice = random.Random(seed)
    caller, made = tenant(platform, 3 * 8192 * TOKEN)

    async def one() -> Answer:
        path, body = hostile(dice, priced)
        return await caller.call(path, body)

    async def scenario() -> list[int]:
        statuses: list[int] = []
        for _ in range(20):
            statuses += [answer.status for answer in await asyncio.gather(*(one() for _ in range(12)))]
        return statuses

    statuses = asyncio.run(scenario())
    assert set(statuses) <= {200, 400, 429}
    assert statuses.count(200) > 10

    def settled() -> bool:
        return 0 < platform.context.leases.quota_states([made.id])[made.id].spent == spent(platform, made, priced)

    eventually(settled, seconds=30, what="the settlement of the last of it")
    assert 0 < spent(platform, made, priced) <= made.amount


TEMPLATE = 3000


@pytest.fixture(scope="module")
def templated(platform: Platform) -> str:
    """A model whose chat template adds more to a chat than the chat has bytes, and again for each function."""
    name = platform.model("templated", "--template-tokens", str(TEMPLATE), capacity=64)
    with platform.context.database.write() as session:
        session.add(prices, id="price_templated", model=name, valid_from=1.0, valid_to=None, created_at=1, **PRICE)
    asyncio.run(platform.caller.chat(name, max_tokens=1))
    return name


def functions(count: int) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(count)]}


@pytest.mark.parametrize("fields", [{}, functions(1)], ids=["plain", "functions"])
def test_template_tokens_are_reserved(platform: Platform, templated: str, fields: dict[str, Any]) -> None:
    token = PRICE["prompt"] // 10**6
    prompt = 3 + TEMPLATE * (2 if fields else 1)
    caller, made = tenant(platform, (3 * prompt - 1) * token)

    async def scenario() -> list[int]:
        asked = (caller.chat(templated, max_tokens=1, **fields) for _ in range(20))
        return [answer.status for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(scenario())
    assert set(statuses) == {200, 429}

    least = statuses.count(200) * prompt * token

    def settled() -> bool:
        return (
            least < platform.context.leases.quota_states([made.id])[made.id].spent == spent(platform, made, templated)
        )

    eventually(settled, seconds=30, what="the settlement of the last of it")
    assert least < spent(platform, made, templated) <= made.amount
