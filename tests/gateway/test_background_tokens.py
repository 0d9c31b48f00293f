"""Background work on the token path: what it may call, and whom its usage counts to."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.tenancy.background_work import Originator
from llmariner.tenancy.keys.store import NewKey
from llmariner.usage.tables import prices
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.inference import InferencePaused, InferenceRefused

from .caller import Caller
from .running_platform import Platform, eventually


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    return platform.model("background-vectors", task="embed")


@pytest.fixture
def embedder(platform: Platform) -> Embedder:
    return Embedder(platform.context.inference)


def originator(platform: Platform, key_id: str | None = None) -> Originator:
    owner = platform.owner
    return Originator(owner.user_id, owner.project_id, owner.organization_id, key_id)


def test_usage_counts_to_the_project_user_and_key_that_caused_it(
    platform: Platform, model: str, embedder: Embedder
) -> None:
    key_id, _ = platform.key("causes", limited=True)
    first, second = embedder.embed(model, originator(platform, key_id), ["a b c", "d"], wait_seconds=30)
    assert len(first) == len(second)
    embedder.embed(model, originator(platform), ["e"], wait_seconds=30)
    owner = platform.owner
    expected = {(key_id, owner.user_id, owner.project_id), (owner.user_id, owner.user_id, owner.project_id)}

    def recorded() -> bool:
        rows = platform.ledger(model)
        return expected <= {(row["key_id"], row["user_id"], row["project_id"]) for row in rows}

    eventually(recorded, what="the record of both callers")


def test_a_token_is_good_for_the_token_path_alone(platform: Platform, model: str) -> None:
    caller = Caller(platform.port, platform.context.background_tokens.issue(originator(platform)))
    assert asyncio.run(caller.call("/v1/embeddings", {"model": model, "input": "a"})).status == 200
    for path in ("/v1/models", "/v1/api_keys", "/v1/organization/users"):
        refused = asyncio.run(caller.call(path))
        assert refused.status == 401, path


def test_the_models_of_the_key_are_those_of_its_work(platform: Platform, model: str, embedder: Embedder) -> None:
    new = NewKey("narrow", frozenset({"api.vector_stores.write"}), allowed_models=("another",))
    key, _ = platform.context.keys.create(platform.owner, new)
    with pytest.raises(InferenceRefused) as refused:
        embedder.embed(model, originator(platform, key.id), ["a"], wait_seconds=30)
    assert refused.value.status in (403, 404)


def test_a_revoked_key_ends_its_work(platform: Platform, model: str, embedder: Embedder) -> None:
    key_id, _ = platform.key("revoked-later", limited=True)
    platform.context.keys.revoke(platform.owner, key_id)
    with pytest.raises(InferenceRefused, match="revoked"):
        embedder.embed(model, originator(platform, key_id), ["a"], wait_seconds=30)


def test_a_spent_budget_is_a_pause_that_says_so(platform: Platform, embedder: Embedder) -> None:
    name = platform.model("dear-vectors", task="embed")
    price = {"prompt": 10**9, "cached_prompt": 10**9, "completion": 0, "request": 10**9}
    with platform.context.database.write() as session:
        session.add(prices, id="price_dear", model=name, valid_from=1.0, valid_to=None, created_at=1, **price)
    key_id, _ = platform.key("poor", limited=True)
    subject = Subject(platform.owner.organization_id, "key", key_id)
    platform.context.budgets.put(None, subject, "total", NewBudget(1))
    with pytest.raises(InferencePaused) as paused:
        embedder.embed(name, originator(platform, key_id), ["a"], wait_seconds=30)
    assert paused.value.code == "insufficient_quota"
