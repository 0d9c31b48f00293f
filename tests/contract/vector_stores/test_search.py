"""Search in vector stores: both halves, filters, thresholds, and nothing of other projects or of removed files."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.errors import EngineFailed, InsufficientQuota, ModelNotReady, NotFound, PermissionDenied, Unavailable
from llmariner.platform.vectors import Chunk, Collection, Comparison, Compound, VectorIndexUnavailable
from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.query import ModelRewriter, SearchQuery, keywords
from llmariner.vector_stores.search import SearchPage, VectorStoreSearch
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore
from llmariner.vector_stores.tables import vector_store_files, vector_stores

from ..stored_files import Shelf
from .ingestion import Ingestion
from .token_path import DIMENSION, TokenPath, vector_of

TEXTS = {
    "pumps": "The red pump moves water from the well.",
    "valves": "A valve closes the pipe.",
    "cats": "Cats sleep all day.",
}


@pytest.fixture
def search(ingestion: Ingestion) -> VectorStoreSearch:
    return VectorStoreSearch(ingestion.database, ingestion.index, Embedder(ingestion.token_path.client))


@pytest.fixture
def store_id(ingestion: Ingestion) -> str:
    """A store with a file for each of TEXTS, whose attribute `topic` is its name."""
    files = [NewStoreFile(ingestion.file(text), attributes={"topic": name}) for name, text in TEXTS.items()]
    made = ingestion.shelf.stores.create(ingestion.shelf.caller, NewVectorStore(files=files))
    ingestion.run()
    return made.id


def found(page: SearchPage) -> list[str]:
    return [next(name for name, text in TEXTS.items() if text in each.content) for each in page.results]


def ask(search: VectorStoreSearch, ingestion: Ingestion, store_id: str, text: str, **fields: Any) -> SearchPage:
    return search.search(ingestion.shelf.caller, [store_id], SearchQuery((text,), **fields))


def test_a_result_says_where_it_is_from_and_what_each_half_gave(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    page = ask(search, ingestion, store_id, "red pump water")
    assert found(page)[0] == "pumps"
    best = page.results[0]
    assert (best.filename, best.vector_store_id, best.attributes) == ("a.txt", store_id, {"topic": "pumps"})
    assert best.file_id.startswith("file-")
    assert TEXTS["pumps"][best.start : best.end] == TEXTS["pumps"]
    assert best.vector is not None
    assert best.text is not None
    assert (best.vector.rank, best.text.rank) == (1, 1)
    assert best.score == pytest.approx(1)
    assert page.results[-1].text is None  # similar to some degree, without one of the words


def test_each_half_finds_what_the_other_does_not(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    by_words = ask(search, ingestion, store_id, "valve", vector_weight=0)
    assert (found(by_words), by_words.results[0].vector) == (["valves"], None)
    by_vector = ask(search, ingestion, store_id, "valve", text_weight=0)
    assert by_vector.results[0].text is None
    assert len(by_vector.results) == 3
    alone = ask(search, ingestion, store_id, TEXTS["cats"], ranker="none")
    assert (found(alone)[0], alone.results[0].text) == ("cats", None)
    assert alone.results[0].score == pytest.approx(1, abs=1e-3)


def test_filters_numbers_and_thresholds_bound_the_results(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    only = Comparison("topic", "eq", "cats")
    assert found(ask(search, ingestion, store_id, "red pump", filters=only)) == ["cats"]
    both = Compound("or", [only, Comparison("topic", "in", ["valves"])])
    assert set(found(ask(search, ingestion, store_id, "red pump", filters=both))) == {"cats", "valves"}
    assert len(ask(search, ingestion, store_id, "red pump", max_results=1).results) == 1
    assert found(ask(search, ingestion, store_id, "red pump water", score_threshold=0.99)) == ["pumps"]


def test_several_queries_are_one_ranking_without_repetitions(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    query = SearchQuery(("red pump water", "cats sleep"))
    page = search.search(ingestion.shelf.caller, [store_id], query)
    assert (set(found(page)[:2]), len(page.results)) == ({"pumps", "cats"}, 3)


def test_several_stores_are_searched_at_once(search: VectorStoreSearch, ingestion: Ingestion, store_id: str) -> None:
    other = ingestion.store("The blue pump moves oil.")
    ingestion.run()
    page = search.search(ingestion.shelf.caller, [store_id, other, store_id], SearchQuery(("pump",)))
    assert {each.vector_store_id for each in page.results[:2]} == {store_id, other}
    assert search.search(ingestion.shelf.caller, [], SearchQuery(("pump",))).results == []


def test_each_model_of_several_stores_embeds_the_queries_once(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    same, other = ingestion.store("The blue pump moves oil."), ingestion.store("A green pump moves sand.")
    ingestion.run()
    index_under_another_model(ingestion, other, "model-b")
    before = len(ingestion.token_path.requests)
    query = SearchQuery(("blue pump oil", "green pump sand"))
    page = search.search(ingestion.shelf.caller, [store_id, same, other], query)
    asked = [(body["model"], body["input"]) for _, _, body in ingestion.token_path.requests[before:]]
    model = ingestion.shelf.settings.embedding_model.partition("@")[0]
    assert sorted(asked) == sorted([(model, list(query.texts)), ("model-b", list(query.texts))])
    # The first of each collection, whose scores don't compare, in one order.
    assert {each.vector_store_id for each in page.results[:2]} == {same, other}
    assert [each.score for each in page.results] == sorted((each.score for each in page.results), reverse=True)
    assert {each.vector_store_id for each in page.results} == {store_id, same, other}


def index_under_another_model(ingestion: Ingestion, store_id: str, model: str) -> None:
    """Let a store have been embedded by another model than the others."""
    chunks = [
        Chunk(row.id, store_id, row.vector_store_file_id, row.text, vector_of(row.text), {})
        for row in ingestion.chunks(store_id)
    ]
    ingestion.index.ensure(Collection(model, DIMENSION))
    ingestion.index.upsert(Collection(model, DIMENSION), ingestion.shelf.project_id, chunks)
    with ingestion.database.write() as session:
        session.run(update(vector_stores).where(vector_stores.c.id == store_id).values(embedding_model=model))


def test_an_empty_store_and_an_expired_one_have_no_results(search: VectorStoreSearch, ingestion: Ingestion) -> None:
    shelf = ingestion.shelf
    empty, expired = shelf.store(), shelf.store(ingestion.file("pump"), expires_after_days=1)
    ingestion.run()
    assert len(ask(search, ingestion, expired.id, "pump").results) == 1
    shelf.pass_time(expired.id, 2 * 86400)
    before = len(ingestion.token_path.requests)
    for store_id in (empty.id, expired.id):
        assert ask(search, ingestion, store_id, "pump").results == []
    assert len(ingestion.token_path.requests) == before


def test_a_search_is_an_activity(search: VectorStoreSearch, ingestion: Ingestion, store_id: str) -> None:
    ingestion.shelf.pass_time(store_id, 3600)
    before = ingestion.shelf.get(store_id).last_active_at
    ask(search, ingestion, store_id, "pump")
    assert ingestion.shelf.get(store_id).last_active_at > before


def test_another_project_finds_nothing_and_learns_nothing(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str, other_shelf: Shelf
) -> None:
    own = other_shelf.store()
    for store_ids in ([store_id], [own.id, store_id], ["vs_unknown"], [own.id, "a\0b"]):
        with pytest.raises(NotFound) as refused:
            search.search(other_shelf.caller, store_ids, SearchQuery(("pump",)))
        assert refused.value.message.startswith("No such vector store")
    assert search.search(other_shelf.caller, [own.id], SearchQuery(("pump",))).results == []


@pytest.mark.parametrize("what", ["removed", "deleted", "in_progress", "failed", "cancelled"])
def test_a_hit_without_a_row_of_a_completed_file_is_dropped(
    search: VectorStoreSearch, ingestion: Ingestion, what: str
) -> None:
    store_id = ingestion.store("A lonely pump.")
    ingestion.run()
    row = ingestion.row(store_id)
    if what == "removed":
        ingestion.shelf.files.remove(ingestion.shelf.caller, store_id, row.file_id)
    elif what == "deleted":
        ingestion.contents.delete(ingestion.shelf.caller, row.file_id)
    else:
        with ingestion.database.write() as session:
            session.run(
                update(vector_store_files).values(status=what, completed_at=None if what == "in_progress" else 1)
            )
    assert ingestion.indexed(store_id) == {row.id: 1}  # no consumer was there yet
    assert ask(search, ingestion, store_id, "pump").results == []


def test_a_chunk_that_the_index_alone_has_is_no_result(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    forged = Chunk("vsf_gone-0", store_id, "vsf_gone", "pump pump pump", vector_of("pump"), {})
    collection = Collection(ingestion.shelf.settings.embedding_model, DIMENSION)
    ingestion.index.upsert(collection, ingestion.shelf.project_id, [forged])
    assert "pumps" in found(ask(search, ingestion, store_id, "pump"))


ERRORS = [
    (429, "insufficient_quota", InsufficientQuota),
    (503, "model_not_ready", ModelNotReady),
    (503, "service_unavailable", Unavailable),
    (403, "model_not_allowed", PermissionDenied),
    (404, "model_not_found", PermissionDenied),
    (502, None, EngineFailed),
]


@pytest.mark.parametrize(("status", "code", "expected"), ERRORS)
def test_an_error_of_the_token_path_is_the_callers(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str, status: int, code: str, expected: type[Exception]
) -> None:
    ingestion.token_path.errors = [(status, code, "7")]
    with pytest.raises(expected) as failed:
        ask(search, ingestion, store_id, "pump")
    if status in (429, 503):
        assert failed.value.headers["retry-after"] == "7"  # type: ignore[attr-defined]


def test_an_index_that_is_away_is_unavailable(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_args: Any, **_kwargs: Any) -> None:
        raise VectorIndexUnavailable

    monkeypatch.setattr(ingestion.index, "search_text", away)
    with pytest.raises(Unavailable):
        ask(search, ingestion, store_id, "pump")


def test_a_search_ends_at_its_deadline_wherever_it_is(ingestion: Ingestion, store_id: str) -> None:
    release = threading.Event()

    def search(seconds: float, **fields: Any) -> SearchPage:
        made = VectorStoreSearch(
            ingestion.database, ingestion.index, Embedder(ingestion.token_path.client), seconds=seconds
        )
        return ask(made, ingestion, store_id, "pump", **fields)

    assert search(60).results
    for fields in ({}, {"vector_weight": 0}):
        with pytest.raises(Unavailable) as ended:
            search(0, **fields)
        assert int(ended.value.headers["retry-after"]) > 0

    def hang(_body: Any) -> None:
        release.wait(20)

    ingestion.token_path.before = hang
    with pytest.raises(Unavailable):
        search(0.2)
    release.set()


def test_a_reranker_decides_the_order(ingestion: Ingestion, store_id: str) -> None:
    class ByCats:
        model = "cats"

        def scores(self, query: str, texts: Sequence[str], originator: Originator, deadline: float) -> list[float]:
            assert originator.project_id == ingestion.shelf.project_id
            return [0.9 if "Cats" in text else 0.1 for text in texts]

    embedder = Embedder(ingestion.token_path.client)
    search = VectorStoreSearch(ingestion.database, ingestion.index, embedder, reranker=ByCats())
    assert found(ask(search, ingestion, store_id, "red pump"))[0] == "cats"
    assert found(ask(search, ingestion, store_id, "red pump", score_threshold=0.5)) == ["cats"]
    for ranker in ("none", "default-2024-11-15"):
        page = ask(search, ingestion, store_id, "red pump water", ranker=ranker)
        assert (found(page)[0], page.reranking) == ("pumps", None)


REWRITTEN = {
    "What is the capital of France?": "capital France",
    "Please tell me about error E-1234 in C++.": "error E-1234 C++",
    "what is this": "what is this",
    "": "",
    "größe des Behälters": "größe des Behälters",
}


@pytest.mark.parametrize("text", REWRITTEN)
def test_words_without_meaning_are_removed_from_a_query(text: str) -> None:
    assert keywords(text) == REWRITTEN[text]


def test_a_query_of_words_is_shown_and_searched_by_words_while_the_question_is_embedded(
    search: VectorStoreSearch, ingestion: Ingestion, store_id: str
) -> None:
    page = ask(search, ingestion, store_id, "What is the cats for?", rewrite=True)
    assert page.queries == ("cats",)
    assert ingestion.token_path.embedded()[-1] == "What is the cats for?"
    # All texts but one have words like "the".
    assert [each.text is not None for each in page.results if "Cats" not in each.content] == [False, False]


def test_a_query_that_a_model_rewrote_is_embedded(ingestion: Ingestion, store_id: str) -> None:
    embedder = Embedder(ingestion.token_path.client)
    search = VectorStoreSearch(
        ingestion.database,
        ingestion.index,
        embedder,
        rewriter=lambda text, originator, _: f"{text} {originator.user_id}",
    )
    page = ask(search, ingestion, store_id, "pump", rewrite=True)
    assert page.queries == (f"pump {Originator.of(ingestion.shelf.caller).user_id}",)
    assert ingestion.token_path.embedded()[-1] == page.queries[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"choices":[{"message":{"content":"\\"pump flow\\"\\nBecause it is short."}}]}', "pump flow"),
        (b'{"choices":[]}', "pump"),
        (b'{"choices":[{"message":{"content":null}}]}', "pump"),
        (b"<html>", "pump"),
    ],
)
def test_a_model_rewrites_a_query_and_an_unusable_answer_is_none(
    token_path: TokenPath, answer: bytes, expected: str
) -> None:
    token_path.raw = answer
    rewriter = ModelRewriter(token_path.client, "chat", wait_seconds=1)
    assert rewriter("What is the pump for?", Originator("user_1", "proj_1", "org_1"), math.inf) == expected
    assert token_path.requests[0][0] == "/v1/chat/completions"
