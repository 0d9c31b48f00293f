"""`POST /v1/rerank`: relayed, counted, and held to budgets, as embeddings are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.usage.tables import prices

from .caller import Answer, Caller
from .running_platform import Platform

QUERY = "red pump"
DOCUMENTS = ["a blue lamp", "the red pump moves", "a red lamp"]


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    return platform.model("ranks", task="embed")


def rerank(caller: Caller, model: str, **fields: Any) -> Answer:
    body = {"model": model, "query": QUERY, "documents": DOCUMENTS, **fields}
    return asyncio.run(caller.call("/v1/rerank", body))


def test_documents_are_ranked_and_their_tokens_counted(platform: Platform, model: str) -> None:
    answer = rerank(platform.caller, model)
    assert answer.status == 200
    assert [row["index"] for row in answer.json()["results"]] == [1, 2, 0]
    row = platform.row(answer.headers["x-request-id"])
    assert (row["route"], row["prompt_tokens"], row["completion_tokens"]) == ("rerank", 3 * 2 + 10, 0)
    assert (row["outcome"], answer.json()["usage"]["total_tokens"]) == ("succeeded", 16)
    assert [row["index"] for row in rerank(platform.caller, model, top_n=1).json()["results"]] == [1]


def test_a_chat_model_does_not_rank(platform: Platform) -> None:
    answer = rerank(platform.caller, platform.model("talks"))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "unsupported_model")
    assert "/v1/rerank" in answer.json()["error"]["message"]


def test_a_budget_holds(platform: Platform) -> None:
    name, token = platform.model("priced-ranks", task="embed"), 1000
    price = {"prompt": token * 10**6, "cached_prompt": token * 10**6, "completion": 10**12, "request": 0}
    with platform.context.database.write() as session:
        session.add(prices, id="price_ranks", model=name, valid_from=1.0, valid_to=None, created_at=1, **price)
    caller = platform.tenant("ranks")
    subject = Subject(platform.owner.organization_id, "project", "proj_ranks")
    platform.context.budgets.put(None, subject, "total", NewBudget(10 * token))
    refused = rerank(caller, name)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "insufficient_quota")
