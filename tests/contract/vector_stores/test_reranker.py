"""Searches whose first results a model reranks: its order, its bounds, and the order of the fusion where it fails."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.context import Context
from llmariner.inference_settings import InferenceSettings
from llmariner.vector_stores import reranker as rerankers
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.inference import InferenceClient
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.reranker import ModelReranker
from llmariner.vector_stores.search import Reranking, SearchPage, VectorStoreSearch

from .ingestion import Ingestion
from .token_path import TOKENS, error

TEXTS = ["red red red red", "the red pump of the well moves water", "dull red"]
QUERY = "red pump"


class Searches:
    """Searches of a store with TEXTS, with and without a reranker."""

    def __init__(self, ingestion: Ingestion) -> None:
        self.ingestion = ingestion
        self.store_id = ingestion.store(*TEXTS)
        ingestion.run()

    def ask(self, client: InferenceClient | None = None, *, rerank: bool = True, **fields: object) -> SearchPage:
        """Search for QUERY."""
        path = self.ingestion.token_path.client
        reranker = ModelReranker(client or path, "ranks") if rerank else None
        search = VectorStoreSearch(self.ingestion.database, self.ingestion.index, Embedder(path), reranker=reranker)
        query: SearchQuery = SearchQuery((QUERY,), **fields)  # type: ignore[arg-type]
        return search.search(self.ingestion.shelf.caller, [self.store_id], query)


@pytest.fixture
def searches(ingestion: Ingestion) -> Searches:
    return Searches(ingestion)


def order(page: SearchPage) -> list[str]:
    return [each.content for each in page.results]


def test_the_model_scores_what_the_fusion_found(searches: Searches) -> None:
    path, fused = searches.ingestion.token_path, order(searches.ask(rerank=False))
    page = searches.ask()
    assert [(each.content, each.score) for each in page.results] == [(TEXTS[1], 1.0), (TEXTS[0], 0.5), (TEXTS[2], 0.0)]
    assert page.reranking == Reranking("ranks")
    [(_, headers, body)] = [each for each in path.requests if each[0] == "/v1/rerank"]
    assert body == {"model": "ranks", "query": QUERY, "documents": fused, "truncate_prompt_tokens": -1}
    verified = TOKENS.verify(headers["authorization"].removeprefix("Bearer "))
    assert verified is not None
    assert verified[0].project_id == searches.ingestion.shelf.project_id
    assert order(searches.ask(score_threshold=0.4)) == [TEXTS[1], TEXTS[0]]
    assert order(searches.ask(max_results=1)) == [TEXTS[1]]  # which the fusion may have put behind


def rows(*scores: object) -> bytes:
    return json.dumps({"results": [{"index": n, "relevance_score": each} for n, each in enumerate(scores)]}).encode()


FAILURES: dict[str, tuple[int, bytes]] = {
    "no JSON": (200, b"<html>"),
    "a list": (200, b"[]"),
    "no results": (200, b"{}"),
    "results that are a number": (200, b'{"results": 5}'),
    "one too few": (200, rows(1, 0.5)),
    "the same one twice": (200, json.dumps({"results": [{"index": 0, "relevance_score": 1}] * 3}).encode()),
    "a list as index": (200, b'{"results": [{"index": [], "relevance_score": 1}]}'),
    "not a number": (200, rows(1, 0.5, float("nan"))),
    "infinity": (200, rows(1, 0.5, float("inf"))),
    "words": (200, rows(1, "much", 0)),
    "null": (200, rows(1, None, 0)),
    "five hundred digits": (200, rows(1, 10**500, 0)),
    "an unknown model": (404, error("model_not_found")),
    "a model that may not be used": (403, error("model_not_allowed")),
    "a text that is too long": (400, error("context_length_exceeded")),
    "a spent budget": (429, error("insufficient_quota")),
    "a model that sleeps": (503, error("model_not_ready")),
    "an engine that failed": (502, error("engine_failed")),
}


def test_a_failure_leaves_the_order_of_the_fusion_and_says_why(searches: Searches) -> None:
    path, fused = searches.ingestion.token_path, searches.ask(rerank=False)
    assert fused.reranking is None
    for case, path.rerank_answer in FAILURES.items():
        page = searches.ask()
        assert page.results == fused.results, case
        assert page.reranking is not None, case
        assert (page.reranking.model, bool(page.reranking.failure)) == ("ranks", True), case


@pytest.fixture
def silent() -> Iterator[InferenceClient]:
    """A client of a token path that accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield InferenceClient(InferenceSettings(f"http://127.0.0.1:{server.getsockname()[1]}"), TOKENS)


def test_a_model_that_does_not_answer_delays_a_search_for_a_bounded_time(
    searches: Searches, silent: InferenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = searches.ask(rerank=False)
    monkeypatch.setattr(rerankers, "_SECONDS", 0.3)
    began = time.monotonic()
    page = searches.ask(silent)
    assert time.monotonic() - began < 5
    assert page.results == fused.results
    assert page.reranking is not None
    assert page.reranking.failure is not None


def test_a_store_without_files_is_not_reranked(ingestion: Ingestion) -> None:
    reranker = ModelReranker(ingestion.token_path.client, "ranks")
    embedder = Embedder(ingestion.token_path.client)
    search = VectorStoreSearch(ingestion.database, ingestion.index, embedder, reranker=reranker)
    page = search.search(ingestion.shelf.caller, [ingestion.shelf.store().id], SearchQuery((QUERY,)))
    assert (page.results, ingestion.token_path.requests) == ([], [])


@pytest.mark.parametrize("name", ["", "ranks"])
def test_the_platforms_setting_names_the_model(name: str, tmp_path: Path) -> None:
    said = {"LLMARINER_RERANK_MODEL": name, "LLMARINER_MILVUS_URI": "http://127.0.0.1:9"}
    secrets = {"LLMARINER_PEPPER": "p" * 64, "LLMARINER_SERVICE_SECRET": "s" * 64}
    context = Context({"LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path}/platform.db", **secrets, **said})
    reranker = vars(context.vector_store_search)["_reranker"]
    assert (reranker.model if reranker else "") == name
