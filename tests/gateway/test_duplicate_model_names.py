"""Project models of one name on the token path: each project reaches its own, and nothing is revealed of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.rules import Subject
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.usage.tables import prices

from .caller import Caller
from .running_platform import Platform, eventually


def own_model(platform: Platform, name: str, project_id: str | None, base: str | None = None) -> str:
    """Register a model that says of itself whose it is, by the length of its answers; returns its id in the registry."""
    new = NewModel(name, SourceRepository.LOCAL, "here", base_model_id=base, project_id=project_id)
    model = platform.context.registry.create(new)
    value = {"arguments": ["--model", name, "--tokens", "1"], "capacity": 8}
    (platform.folder / f"{model.id}.json").write_text(json.dumps(value))
    platform.context.registry.mark_loaded(model.id, folder=str(platform.folder), size_bytes=1, task=Task.GENERATE)
    return model.id


def status(caller: Caller, model: str) -> int:
    return asyncio.run(caller.chat(model)).status


def test_each_project_reaches_its_own_model(platform: Platform) -> None:
    first, second, third = (platform.tenant(f"same-{each}") for each in "abc")
    mine = own_model(platform, "same", "proj_same-a")
    assert (status(first, "same"), status(second, "same")) == (200, 404)
    theirs = own_model(platform, "same", "proj_same-b")
    eventually(lambda: status(second, "same") == 200, what="the second project's model")
    assert [len(platform.engines(model)) for model in (mine, theirs)] == [1, 1]
    assert status(first, "same") == 200
    assert [len(platform.engines(model)) for model in (mine, theirs)] == [1, 1]
    assert status(third, "same") == 404
    for caller in (first, second, third):
        assert status(caller, theirs) == 404, "what qualifies an id is nothing that a caller can say"


def test_a_shared_model_may_have_the_name_of_a_project_model(platform: Platform) -> None:
    first, second = (platform.tenant(f"free-{each}") for each in "ab")
    own_model(platform, "free", "proj_free-a")
    assert (status(first, "free"), status(second, "free")) == (200, 404)
    own_model(platform, "free", None)
    value = {"arguments": ["--model", "free", "--tokens", "1"], "capacity": 8}
    (platform.folder / "free@proj_free-a.json").write_text(json.dumps(value))
    eventually(lambda: status(second, "free") == 200, what="the model for all")
    eventually(lambda: status(first, "free") == 200 and platform.engines("free@proj_free-a"), what="its own")


def list_price(platform: Platform, price_id: str, model: str, request: int, project_id: str | None = None) -> None:
    rates = {"prompt": 0, "cached_prompt": 0, "completion": 0, "valid_from": 1.0, "created_at": 1}
    with platform.context.database.write() as session:
        session.add(prices, id=price_id, model=model, request=request, project_id=project_id, **rates)


def cost(platform: Platform, caller: Caller, model: str) -> int:
    answer = asyncio.run(caller.chat(model))
    assert answer.status == 200, answer.body
    found: int = platform.row(answer.headers["x-request-id"])["cost"]
    return found


@pytest.fixture(scope="module")
def listed(platform: Platform) -> Iterator[None]:
    list_price(platform, "price_cheap", "cheap", 1)
    list_price(platform, "price_all_models", "*", 1000)
    list_price(platform, "price_bargain", "bargain", 2, "proj_bargainer")
    list_price(platform, "price_own", "*", 500, "proj_bargainer")
    yield
    with platform.context.database.write() as session:
        session.run(
            prices.delete().where(prices.c.id.in_(["price_cheap", "price_all_models", "price_bargain", "price_own"]))
        )


@pytest.mark.usefixtures("listed")
def test_a_model_name_does_not_select_another_projects_price(platform: Platform) -> None:
    namer = platform.tenant("namer")
    own_model(platform, "cheap", "proj_namer")
    own_model(platform, "bargain", "proj_namer")
    assert [cost(platform, namer, name) for name in ("cheap", "bargain")] == [1000, 1000]
    platform.model("costly")
    list_price(platform, "price_costly", "costly", 77)
    list_price(platform, "price_cheaply", "cheaply", 1)
    own_model(platform, "cheaply", "proj_namer", base="costly")
    assert cost(platform, namer, "cheaply") == 77, "an adapter costs what its base costs"


@pytest.mark.usefixtures("listed")
def test_a_price_of_a_projects_models_applies_to_them_only(platform: Platform) -> None:
    bargainer = platform.tenant("bargainer")
    own_model(platform, "bargain", "proj_bargainer")
    own_model(platform, "unlisted", "proj_bargainer")
    own_model(platform, "ft:unlisted:x", "proj_bargainer", base="unlisted")
    own_model(platform, "ft:bargain:x", "proj_bargainer", base="bargain")
    platform.model("for-all")
    found = [cost(platform, bargainer, f) for f in ("bargain", "unlisted", "ft:unlisted:x", "ft:bargain:x", "for-all")]
    assert found == [2, 500, 500, 2, 1000]


@pytest.mark.usefixtures("listed")
def test_a_budget_is_charged_at_the_prices_of_the_projects_models(platform: Platform) -> None:
    platform.tenant("budgeted")
    organization, project = platform.owner.organization_id, "proj_budgeted"
    own_model(platform, "budgeted", project)
    list_price(platform, "price_named", "budgeted", 1)
    list_price(platform, "price_of_project", "budgeted", 400, project)
    subject = Subject(organization, "project", project)
    Budgets(platform.context.database).put(None, subject, "total", NewBudget(1000))
    caller = platform.key("budgeted, new", owner=KeyOwner(platform.owner.user_id, project, organization))[1]

    async def scenario() -> list[int]:
        return [(await caller.chat("budgeted", max_tokens=1)).status for _ in range(3)]

    assert asyncio.run(scenario()) == [200, 200, 429]
