"""Search in one vector store and in several: OpenAI's form, its errors, and its threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from sqlalchemy import update

from llmariner.boot import load
from llmariner.context import Context
from llmariner.errors import RateLimited, Unavailable
from llmariner.files.tables import files
from llmariner.http.resources.vector_store_search import SearchThreads
from llmariner.platform.vectors import Comparison, Hit, VectorIndex, VectorIndexUnavailable
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.search import SearchPage, VectorStoreSearch
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files, vector_stores

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT
from .test_organization_sdk import openai_client

Search = Callable[..., HttpResponse]


class Index:
    """A vector index that finds the chunks that it is given, and notes what it was asked."""

    def __init__(self) -> None:
        self.by_vector: list[Hit] = []
        self.by_text: list[Hit] = []
        self.asked: list[tuple[str, str, Sequence[str], dict[str, Any]]] = []

    def search_vectors(self, _collection: Any, tenant: str, store_ids: Any, _vector: Any, **more: Any) -> list[Hit]:
        self.asked.append(("vectors", tenant, store_ids, more))
        return self.by_vector

    def search_text(self, _collection: Any, tenant: str, store_ids: Any, query: str, **more: Any) -> list[Hit]:
        self.asked.append((query, tenant, store_ids, more))
        return self.by_text


class Embeddings(Embedder):
    """An embedding model that is always awake."""

    def __init__(self) -> None:
        """Need no client."""

    def embed(self, model: str, originator: Any, texts: Sequence[str], **_: Any) -> list[Sequence[float]]:
        """The same vector for all texts."""
        return [[1.0] * 64 for _ in texts]


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def application(installation: Installation, in_process: InProcessClient, index: Index) -> Iterator[Any]:
    """The function, with that index and an embedding model."""
    context: Any = Context(installation.environment)
    context.vector_store_search = VectorStoreSearch(context.database, cast(VectorIndex, index), Embeddings())
    function: Any = load(CHECKOUT / "functions/vector_stores")
    function.use_context(context)
    yield function
    in_process.runner.run(context.gateway.close())
    context.database.close()


@pytest.fixture
def store_id(installation: Installation) -> Iterator[str]:
    """A store with a chunk `vsf_found-0` of a completed file."""
    owner = installation.owner
    place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
    store = {"id": "vs_found", "name": "x", "description": "", "metadata": "{}", "embedding_model": "vectors"}
    file = {"id": "file-found", "filename": "pumps.txt", "purpose": "assistants", "content_type": "text/plain"}
    row = {"id": "vsf_found", "vector_store_id": "vs_found", "file_id": "file-found", "user_id": owner.user_id}
    row |= {"status": "completed", "attributes": '{"year":2026}', "chunking_strategy": "{}", "step": "done"}
    chunk = {"id": "vsf_found-0", "vector_store_id": "vs_found", "vector_store_file_id": "vsf_found", "page": 3}
    chunk |= {"text": "Pumps move water.", "headings": '["Machines"]'}
    with installation.context.database.write() as session:
        session.add(vector_stores, **place, **store, created_at=1, last_active_at=1, dimension=64)
        session.add(files, **place, **file, size_bytes=1, created_at=1)
        numbers = dict.fromkeys(("usage_bytes", "next_chunk", "attempts", "created_at"), 1)
        session.add(vector_store_files, **place, **row, **numbers)
        session.add(vector_store_chunks, **place, **chunk, chunk_index=0, tokens=3, start_offset=5, end_offset=22)
    yield "vs_found"
    with installation.context.database.write() as session:
        for table in (vector_store_chunks, vector_store_files, files, vector_stores):
            session.run(table.delete().where(table.c.id.like("%found%")))


@pytest.fixture
def search(application: Any, in_process: InProcessClient, admin: dict[str, str], store_id: str) -> Search:
    """`search({"query": …})`: the response of a search in the store."""

    def called(body: Any, **headers: str) -> HttpResponse:
        request = HttpRequest("POST", f"/v1/vector_stores/{store_id}/search", body, {**admin, **headers})
        return in_process.send(application, request)

    return called


def hit(score: float = 0.5) -> Hit:
    return Hit("vsf_found-0", "vs_found", "vsf_found", "Pumps move water.", score)


def test_the_sdk_gets_results(
    application: Any, in_process: InProcessClient, installation: Installation, index: Index, store_id: str
) -> None:
    index.by_vector, index.by_text = [hit(0.5)], [hit(7.0)]
    client = openai_client(application, "unused")
    client.api_key = installation.keys.admin

    async def work() -> None:
        page = await client.vector_stores.search(
            store_id,
            query=["pumps", "water"],
            filters={"type": "and", "filters": [{"type": "eq", "key": "year", "value": 2026}]},
            max_num_results=5,
            ranking_options={"ranker": "auto", "score_threshold": 0.1},
            rewrite_query=True,
        )
        assert page.object == "vector_store.search_results.page"
        [found] = page.data
        assert (found.file_id, found.filename, found.attributes) == ("file-found", "pumps.txt", {"year": 2026})
        assert [part.text for part in found.content] == ["Pumps move water."]
        assert found.score == pytest.approx(1)

    in_process.runner.run(work())
    assert {(tenant, *ids) for _, tenant, ids, _ in index.asked} == {(installation.owner.project_id, store_id)}
    assert {each["filters"].filters[0] for *_, each in index.asked} == {Comparison("year", "eq", 2026)}


def test_a_search_by_words_alone_is_a_request_within_the_callers_limits(
    search: Search, search_several: Search, ask: Ask, admin: dict[str, str], installation: Installation, index: Index
) -> None:
    key, secret = create_bootstrap_key(installation.context.keys, installation.owner, "searcher")
    bearer = {"authorization": f"Bearer {secret}"}
    limit = {"subject": "key", "subject_id": key.id, "requests_per_minute": 3}
    assert ask("limits", HttpRequest("POST", "/v1/limits", limit, admin)).status == 200
    words = {"ranking_options": {"hybrid_search": {"embedding_weight": 0}}}
    assert [search({"query": "x", **words}, **bearer).status for _ in range(3)] == [200, 200, 200]
    refused = search({"query": "x", **words}, **bearer)
    assert_error(refused, 429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    assert len(index.asked) == 3
    # The token path counts these.
    assert search({"query": "x"}, **bearer).status == 200
    assert search({"query": "x", **words}).status == 200


def test_all_calls_of_a_search_have_one_deadline(search: Search, index: Index) -> None:
    assert search({"query": ["pumps", "water"]}).status == 200
    assert len(index.asked) == 4
    assert len({each["deadline"] for *_, each in index.asked}) == 1


def test_a_search_that_takes_too_long_is_503_and_may_be_repeated(
    application: Any, in_process: InProcessClient, admin: dict[str, str], index: Index, store_id: str
) -> None:
    def past(*_: Any, **__: Any) -> list[Hit]:
        raise VectorIndexUnavailable("The vector index did not answer in time.")

    index.search_text = past  # type: ignore[method-assign]
    request = HttpRequest("POST", f"/v1/vector_stores/{store_id}/search", {"query": "pumps"}, admin)
    answer = in_process.send(application, request)
    assert answer.status == 503
    assert set(answer.error) >= {"message", "type", "param", "code"}
    assert answer.headers["retry-after"] == "2"


def test_a_result_says_where_it_is_and_what_found_it(search: Search, index: Index) -> None:
    index.by_vector = [hit(0.5)]
    page = search({"query": "pumps", "ranking_options": {"hybrid_search": {"text_weight": 0}}}).json
    assert (page["search_query"], page["has_more"], page["next_page"]) == (["pumps"], False, None)
    assert page["reranking"] is None
    [found] = page["data"]
    assert found["chunk"] == {"id": "vsf_found-0", "page": 3, "start": 5, "end": 22, "headings": ["Machines"]}
    assert found["found_by"] == {"vector": {"rank": 1, "score": 0.5}, "text": None}
    assert found["vector_store_id"] == "vs_found"


def test_a_search_of_an_unknown_or_anothers_store_is_404(
    application: Any, in_process: InProcessClient, admin: dict[str, str], outsider: dict[str, str], search: Search
) -> None:
    assert_error(search({"query": "x"}, **outsider), 404, "not_found")
    unknown = HttpRequest("POST", "/v1/vector_stores/vs_unknown/search", {"query": "x"}, admin)
    assert_error(in_process.send(application, unknown), 404, "not_found")


@pytest.fixture
def search_several(
    application: Any, in_process: InProcessClient, admin: dict[str, str], installation: Installation, store_id: str
) -> Search:
    """`search_several(ids)`: a search in these stores; the caller has `vs_found` and `vs_found_0` to `_10`."""
    stores = [f"vs_found_{number}" for number in range(11)]
    owner = installation.owner
    place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
    store = {"name": "x", "description": "", "metadata": "{}", "created_at": 1, "last_active_at": 1}
    with installation.context.database.write() as session:
        for id_ in stores:
            session.add(vector_stores, id=id_, **place, **store, embedding_model=f"model {id_}", dimension=64)

    def called(ids: Any, **headers: str) -> HttpResponse:
        body = {"query": "pumps", "vector_store_ids": ids}
        return in_process.send(application, HttpRequest("POST", "/v1/vector_stores/search", body, {**admin, **headers}))

    return called


def test_several_stores_are_one_ranking_and_each_of_them_was_active(
    search_several: Search, index: Index, installation: Installation, store_id: str
) -> None:
    index.by_vector = [hit(0.5)]
    page = search_several([store_id, "vs_found_1", store_id]).json
    assert [each["vector_store_id"] for each in page["data"]] == [store_id]
    assert [ids for _, _, ids, _ in index.asked] == [[store_id]] * 2 + [["vs_found_1"]] * 2
    project_id, stores = installation.owner.project_id, installation.context.vector_stores
    assert all(stores.get(project_id, id_).last_active_at > 1 for id_ in (store_id, "vs_found_1"))


def test_ten_stores_are_searched_at_once_and_duplicates_count_once(search_several: Search, index: Index) -> None:
    ten = [f"vs_found_{number}" for number in range(10)]
    assert search_several(ten * 3).status == 200
    for ids, said in (([*ten, "vs_found_10"], "not 11"), ([], "not 0")):
        answer = search_several(ids)
        assert (answer.status, answer.error["param"]) == (400, "vector_store_ids")
        assert said in answer.error["message"]
    no_lists: tuple[Any, ...] = (None, "vs_found", [7], [None], {}, [["vs_found"]])
    for invalid in no_lists:
        answer = search_several(invalid)
        assert answer.status == 400, answer.body
        assert answer.error["param"].startswith("vector_store_ids")


def test_a_store_among_several_that_is_unknown_or_anothers_is_404_and_named(
    search_several: Search, outsider: dict[str, str], index: Index, store_id: str
) -> None:
    for unknown in ("vs_unknown", "", "a\0b", "x" * 1000, "../vs_found", "vs_FOUND"):
        answer = search_several([store_id, unknown])
        assert_error(answer, 404, "not_found")
        assert answer.error["param"] == "vector_store_ids"
        assert f"'{unknown[:64]}'" in answer.error["message"]
    foreign, missing = search_several([store_id], **outsider), search_several(["vs_missing"], **outsider)
    assert foreign.error == {**missing.error, "message": missing.error["message"].replace("vs_missing", store_id)}
    assert foreign.status == 404
    assert index.asked == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": []}, "query"),
        ({"query": ["x", 7]}, "query"),
        ({"query": ["x"] * 11}, "query"),
        ({"query": "x" * 4097}, "query"),
        ({"query": "x", "max_num_results": 0}, "max_num_results"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "max_num_results": "5"}, "max_num_results"),
        ({"query": "x", "rewrite_query": "yes"}, "rewrite_query"),
        ({"query": "x", "ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
        ({"query": "x", "ranking_options": {"score_threshold": 1.1}}, "ranking_options.score_threshold"),
        ({"query": "x", "ranking_options": {"score": 1}}, "ranking_options.score"),
        (
            {"query": "x", "ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}},
            "ranking_options.hybrid_search",
        ),
        (
            {"query": "x", "ranking_options": {"hybrid_search": {"text_weight": -1}}},
            "ranking_options.hybrid_search.text_weight",
        ),
        ({"query": "x", "filters": []}, "filters"),
        (
            {"query": "x", "filters": {"type": "or", "filters": [{"type": "eq", "key": "k"}]}},
            "filters.filters[0].value",
        ),
    ],
)
def test_an_invalid_search_is_refused(body: dict[str, Any], param: str, search: Search, index: Index) -> None:
    answer = search(body)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert index.asked == []


def test_a_filter_may_be_evaluated_so_often_and_no_more(search: Search, index: Index) -> None:
    def body(values: int, queries: int, **options: Any) -> dict[str, Any]:
        compared = {"type": "nin", "key": "k", "value": [f"v{number}" for number in range(values)]}
        return {"query": ["x"] * queries, "filters": compared, **options}

    one_half = {"ranking_options": {"ranker": "none"}}
    for allowed in (body(200, 5), body(100, 10), body(200, 10, **one_half)):
        assert search(allowed).status == 200
    asked = len(index.asked)
    nested = {"type": "or", "filters": [{"type": "and", "filters": [body(198, 1)["filters"]]}]}
    for refused in (body(200, 6), body(101, 10), {**body(1, 6), "filters": nested}):
        answer = search(refused)
        assert (answer.status, answer.error["param"]) == (400, "filters")
        assert "fewer queries" in answer.error["message"]
    assert len(index.asked) == asked


def test_a_search_moves_the_expiry(search: Search, installation: Installation, store_id: str) -> None:
    project_id, stores = installation.owner.project_id, installation.context.vector_stores
    assert stores.get(project_id, store_id).last_active_at == 1
    assert search({"query": "pumps"}).status == 200
    assert stores.get(project_id, store_id).last_active_at > 1


def test_an_expired_store_has_no_results(search: Search, index: Index, installation: Installation) -> None:
    index.by_vector = [hit()]
    with installation.context.database.write() as session:
        session.run(update(vector_stores).where(vector_stores.c.id == "vs_found").values(expires_at=1))
    assert search({"query": "pumps"}).json["data"] == []


def test_searches_that_wait_are_bounded_per_project_and_in_all() -> None:
    release, threads = threading.Event(), SearchThreads()

    def slow() -> SearchPage:
        release.wait(30)
        return SearchPage(("x",), [])

    async def work() -> None:
        running = [asyncio.create_task(threads.run(f"proj_{n % 3}", slow)) for n in range(48)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited) as refused:
            await threads.run("proj_0", slow)
        assert refused.value.headers["retry-after"] == "1"
        with pytest.raises(Unavailable):
            await threads.run("proj_9", slow)
        release.set()
        assert len(await asyncio.gather(*running)) == 48
        assert (await threads.run("proj_0", slow)).results == []

    asyncio.run(work())
