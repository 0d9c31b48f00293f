"""Search in vector stores over HTTP: the body, the page of results, and the threads in which searches run."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

import anyio
import anyio.to_thread
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, RateLimited, Unavailable
from llmariner.gateway.control_plane.port import Key
from llmariner.http.schemas.bodies import Body
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.filters import parse_filter
from llmariner.vector_stores.query import MAX_QUERIES, MAX_QUERY_LENGTH, MAX_RESULTS, MAX_STORES, Ranker, SearchQuery
from llmariner.vector_stores.search import SearchPage, SearchResult

__all__ = ["SearchBody", "SearchStoresBody", "SearchThreads", "counted_as_request", "search_page_object"]

_LIMITED_AS = "search by words"
"""In place of a model's name: limits of single models don't count."""
_MAX_SEARCHES, _MAX_SEARCHES_OF_PROJECT = 48, 16


class _HybridSearch(Body):
    """The weights of the two halves of a search."""

    embedding_weight: float = Field(default=1.0, ge=0, le=1000)
    text_weight: float = Field(default=1.0, ge=0, le=1000)


class _RankingOptions(Body):
    """How results are ranked. `hybrid_search` is that of OpenAI's tool `file_search`."""

    ranker: Ranker = "auto"
    score_threshold: float = Field(default=0.0, ge=0, le=1)
    hybrid_search: _HybridSearch | None = None


class SearchBody(Body):
    """POST of a search in one store."""

    query: Any
    filters: Any = None
    max_num_results: int = Field(default=10, ge=1, le=MAX_RESULTS)
    ranking_options: _RankingOptions | None = None
    rewrite_query: bool | None = None

    def to_query(self) -> SearchQuery:
        """The query. InvalidRequest names the invalid part of the query, the filter or the weights."""
        options = self.ranking_options or _RankingOptions()
        weights = options.hybrid_search or _HybridSearch()
        if weights.embedding_weight == weights.text_weight == 0:
            raise InvalidRequest(
                "One of 'embedding_weight' and 'text_weight' must be above 0.", param="ranking_options.hybrid_search"
            )
        return SearchQuery(
            texts=_texts(self.query),
            filters=None if self.filters is None else parse_filter(self.filters),
            max_results=self.max_num_results,
            ranker=options.ranker,
            score_threshold=options.score_threshold,
            rewrite=bool(self.rewrite_query),
            vector_weight=weights.embedding_weight,
            text_weight=weights.text_weight,
        )


class SearchStoresBody(SearchBody):
    """POST of a search in several stores."""

    vector_store_ids: list[str]

    def store_ids(self) -> list[str]:
        """The stores to search, each once. InvalidRequest for none or too many."""
        ids = list(dict.fromkeys(self.vector_store_ids))
        if not 1 <= len(ids) <= MAX_STORES:
            raise InvalidRequest(
                f"'vector_store_ids' must name 1 to {MAX_STORES} vector stores, not {len(ids)}.",
                param="vector_store_ids",
            )
        return ids


def _texts(query: Any) -> tuple[str, ...]:
    """The texts of a query, which is a string or a list of strings."""
    texts = query if isinstance(query, list) else [query]
    if not 1 <= len(texts) <= MAX_QUERIES:
        raise InvalidRequest(f"'query' must be a string, or a list of 1 to {MAX_QUERIES} strings.", param="query")
    for text in texts:
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_QUERY_LENGTH:
            raise InvalidRequest(
                f"'query' must be text of 1 to {MAX_QUERY_LENGTH} characters, or a list of such texts.", param="query"
            )
    return tuple(texts)


def search_page_object(page: SearchPage) -> dict[str, Any]:
    """OpenAI's object. Each result also says its store, where its chunk is in the file, and what each half gave."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(page.queries),
        "data": [_result_object(result) for result in page.results],
        "has_more": False,
        "next_page": None,
        "reranking": None if page.reranking is None else asdict(page.reranking),
    }


def _result_object(result: SearchResult) -> dict[str, Any]:
    return {
        "vector_store_id": result.vector_store_id,
        "file_id": result.file_id,
        "filename": result.filename,
        "score": result.score,
        "attributes": dict(result.attributes),
        "content": [{"type": "text", "text": result.content}],
        "chunk": {
            "id": result.chunk_id,
            "page": result.page,
            "start": result.start,
            "end": result.end,
            "headings": list(result.headings),
        },
        "found_by": {
            "vector": None if result.vector is None else asdict(result.vector),
            "text": None if result.text is None else asdict(result.text),
        },
    }


@contextlib.asynccontextmanager
async def counted_as_request(context: Context, caller: Caller, query: SearchQuery) -> AsyncIterator[None]:
    """A search by words alone is a request within the caller's limits, in progress meanwhile. Raises RateLimited.

    Other searches have their query embedded, which the token path counts.
    """
    if query.is_by_vector:
        yield
        return
    owner, gateway = caller.key_owner, context.gateway
    if not gateway.is_fresh():
        await gateway.refresh()
    key_id = caller.key_id or owner.user_id
    key = Key(
        key_id, owner.project_id, owner.organization_id, owner.user_id, caller.scopes, None, unlimited=caller.unlimited
    )
    request = (key, _LIMITED_AS, 0, 0)
    reservation = gateway.limiter.try_reserve(*request) or await gateway.limiter.reserve(*request)
    try:
        yield
    finally:
        reservation.settle(0, 0)


class SearchThreads:
    """Threads for searches, apart from those of other requests: a search may wait a minute for its embedding model."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(_MAX_SEARCHES)
        self._running: Counter[str] = Counter()

    async def run(self, project_id: str, search: Callable[[], SearchPage]) -> SearchPage:
        """Run a search. RateLimited or Unavailable if too many run already, of the project or of all."""
        if self._running[project_id] >= _MAX_SEARCHES_OF_PROJECT:
            raise RateLimited(
                f"{_MAX_SEARCHES_OF_PROJECT} searches of your project are under way here. Try again when one has ended.",
                headers={"retry-after": "1"},
            )
        if self._running.total() >= _MAX_SEARCHES:
            raise Unavailable("Too many searches are under way. Try again shortly.", headers={"retry-after": "1"})
        self._running[project_id] += 1
        try:
            return await anyio.to_thread.run_sync(search, limiter=self._limiter)
        finally:
            self._running[project_id] -= 1
            if not self._running[project_id]:
                del self._running[project_id]
