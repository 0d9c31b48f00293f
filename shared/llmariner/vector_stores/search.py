"""Search in vector stores: by similarity and by words, fused, and read from the rows of the chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, and_, or_, select

from llmariner.errors import (
    EngineFailed,
    InsufficientQuota,
    InvalidRequest,
    ModelNotReady,
    PermissionDenied,
    PlatformError,
    RateLimited,
    Unavailable,
)
from llmariner.files.tables import files
from llmariner.platform.database import Database, ReadSession
from llmariner.platform.vectors import AttributeValue, Collection, Hit, VectorIndex, VectorIndexUnavailable
from llmariner.tenancy.background_work import Originator
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.filters import check_work
from llmariner.vector_stores.fusion import FusedHit, Ranked, fuse
from llmariner.vector_stores.inference import InferenceFailed, InferencePaused, InferenceRefused
from llmariner.vector_stores.query import Rewriter, SearchQuery, keywords
from llmariner.vector_stores.reranker import Reranker
from llmariner.vector_stores.rows import load_stores
from llmariner.vector_stores.store import is_expired
from llmariner.vector_stores.stores import record_activity
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

__all__ = ["Reranking", "SearchPage", "SearchResult", "VectorStoreSearch"]

# Of each half: more than are returned, since fusion prefers chunks that both find.
_CANDIDATES_PER_RESULT = 4
_MIN_CANDIDATES = 40
# How many results are reranked at least: one that the fusion puts behind may be the best.
_MIN_RERANKED = 20
_WAIT_SECONDS = 60.0
"""For the embedding model to wake."""
_SEARCH_SECONDS = 90.0
"""For a whole search, with all its models, stores and queries."""


@dataclass(frozen=True)
class SearchResult:
    """A chunk that was found. `score`: 0 to 1. `vector`, `text`: rank and score in that half; None: it did not find it.

    `page`: from 1, if the format has pages. `start`, `end`: characters of the document's text.
    """

    chunk_id: str
    vector_store_id: str
    file_id: str
    filename: str
    attributes: Mapping[str, AttributeValue]
    content: str
    score: float
    page: int | None
    start: int
    end: int
    headings: tuple[str, ...]
    vector: Ranked | None
    text: Ranked | None


@dataclass(frozen=True)
class Reranking:
    """The model that reranked results. `failure`: why it did not, for people; they are in the order of the fusion then."""

    model: str
    failure: str | None = None


@dataclass(frozen=True)
class SearchPage:
    """The queries as they were searched, and the results, best first. `reranking` None: it was not asked for."""

    queries: tuple[str, ...]
    results: Sequence[SearchResult]
    reranking: Reranking | None = None


class VectorStoreSearch:
    """Searches the vector stores of projects. Blocks; safe in any thread.

    `rewriter` None: a rewritten query has the words that carry meaning. Only the search by words takes it: models embed
    a question better than its words alone. `reranker` None: results are in the order of the fusion.
    """

    def __init__(
        self,
        database: Database,
        index: VectorIndex,
        embedder: Embedder,
        *,
        rewriter: Rewriter | None = None,
        reranker: Reranker | None = None,
        seconds: float = _SEARCH_SECONDS,
    ) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._rewriter = rewriter
        self._reranker = reranker
        self._seconds = seconds

    def search(
        self, caller: Caller, store_ids: Sequence[str], query: SearchQuery, *, param: str = "vector_store_id"
    ) -> SearchPage:
        """Search some stores of the caller's project as one; their expiry moves. An expired store has no results.

        Scores of several embedding models don't compare: the results of their stores are ranked by their places.

        Raises InvalidRequest for a filter that is too much for so many queries, NotFound for an unknown store, which the
        field `param` names, the token path's errors for the embedding of the query, and Unavailable while the index does
        not answer, or where all this takes too long.
        """
        check_work(query)
        originator, deadline = Originator.of(caller), time.monotonic() + self._seconds
        with self._database.read() as session:
            stores = load_stores(session, originator.project_id, store_ids, param)
        try:
            query, embedded = self._rewritten(originator, query, deadline)
            live = [store for store in stores if not is_expired(store)]
            results, reranking = self._results(originator, live, query, embedded, deadline)
        except (InferencePaused, InferenceRefused, InferenceFailed) as error:
            raise _platform_error(error) from error
        except VectorIndexUnavailable as error:
            raise Unavailable(
                "The index of vector stores does not answer. Try again.", headers={"retry-after": "2"}
            ) from error
        record_activity(self._database, originator.project_id, [store.id for store in stores])
        return SearchPage(query.texts, results, reranking)

    def _rewritten(
        self, originator: Originator, query: SearchQuery, deadline: float
    ) -> tuple[SearchQuery, Sequence[str]]:
        """The query as it is searched by words, and the texts to embed."""
        if not query.rewrite:
            return query, query.texts
        if self._rewriter is None:
            return replace(query, texts=tuple(keywords(text) for text in query.texts)), query.texts
        texts = tuple(self._rewriter(text, originator, deadline) for text in query.texts)
        return replace(query, texts=texts), texts

    def _results(
        self,
        originator: Originator,
        stores: Sequence[Row[Any]],
        query: SearchQuery,
        embedded: Sequence[str],
        deadline: float,
    ) -> tuple[list[SearchResult], Reranking | None]:
        best: dict[str, FusedHit] = {}
        by_collection = _by_collection(stores)
        by_model = self._vectors(by_collection, originator, query, embedded, deadline)
        for collection, store_ids in by_collection.items():
            vectors = by_model[collection.model]
            for text, vector in zip(query.texts, vectors, strict=True):
                where = (collection, originator.project_id, store_ids)
                for found in self._fused(*where, query, text, vector, deadline):
                    if found.hit.id not in best or found.score > best[found.hit.id].score:
                        best[found.hit.id] = found
        ranked = sorted(best.values(), key=lambda each: (-each.score, each.hit.id))
        with self._database.read() as session:
            results = _hydrated(session, originator.project_id, [store.id for store in stores], ranked)
        reranking = None
        if self._reranker is not None and query.ranker == "auto":
            results = results[: max(_MIN_RERANKED, query.max_results)]
            results, reranking = _reranked(self._reranker, originator, " ".join(embedded), results, deadline)
        return [each for each in results if each.score >= query.score_threshold][: query.max_results], reranking

    def _vectors(
        self,
        collections: Mapping[Collection, Sequence[str]],
        originator: Originator,
        query: SearchQuery,
        embedded: Sequence[str],
        deadline: float,
    ) -> Mapping[str, Sequence[Sequence[float] | None]]:
        """The vectors of the texts by model, each of which embeds them once; None where words alone are searched."""
        if not query.is_by_vector:
            return {collection.model: [None] * len(embedded) for collection in collections}
        found: dict[str, Sequence[Sequence[float]]] = {}
        for collection, store_ids in collections.items():
            model = collection.model
            if model not in found:
                found[model] = self._embedder.embed(
                    model, originator, embedded, wait_seconds=_WAIT_SECONDS, deadline=deadline
                )
            if len(found[model][0]) != collection.dimension:
                raise InferenceRefused(
                    f"The model '{model}' returns vectors of {len(found[model][0])} dimensions now, and the vector store "
                    f"'{store_ids[0]}' has {collection.dimension}. Rebuild the store's index, or create a new vector store."
                )
        return found

    def _fused(
        self,
        collection: Collection,
        tenant: str,
        store_ids: Sequence[str],
        query: SearchQuery,
        text: str,
        vector: Sequence[float] | None,
        deadline: float,
    ) -> list[FusedHit]:
        options: dict[str, Any] = {
            "limit": max(_MIN_CANDIDATES, _CANDIDATES_PER_RESULT * query.max_results),
            "filters": query.filters,
            "deadline": deadline,
        }
        by_vector: list[Hit] = []
        if vector is not None:
            by_vector = self._index.search_vectors(collection, tenant, store_ids, vector, **options)
        if query.ranker == "none":
            return [
                FusedHit(hit, min(max(hit.score, 0.0), 1.0), Ranked(rank, hit.score), None)
                for rank, hit in enumerate(by_vector, 1)
            ]
        by_text: list[Hit] = []
        if query.is_by_words:
            by_text = self._index.search_text(collection, tenant, store_ids, text, **options)
        return fuse(by_vector, by_text, vector_weight=query.vector_weight, text_weight=query.text_weight)


def _reranked(
    reranker: Reranker, originator: Originator, query: str, results: list[SearchResult], deadline: float
) -> tuple[list[SearchResult], Reranking]:
    """The results with the reranker's scores in its order, or as they are if it fails."""
    if not results:
        return results, Reranking(reranker.model)
    try:
        scores = reranker.scores(query, [each.content for each in results], originator, deadline)
    except (InferencePaused, InferenceRefused, InferenceFailed) as error:
        return results, Reranking(reranker.model, str(error))
    scored = [replace(each, score=score) for each, score in zip(results, scores, strict=True)]
    # Of equal scores, the one that the fusion prefers is first.
    return sorted(scored, key=lambda each: -each.score), Reranking(reranker.model)


def _by_collection(stores: Iterable[Row[Any]]) -> dict[Collection, list[str]]:
    """The stores that have vectors, by their collection."""
    found: dict[Collection, list[str]] = {}
    for store in stores:
        if store.dimension is not None:
            found.setdefault(Collection(store.embedding_model, store.dimension), []).append(store.id)
    return found


def _hydrated(
    session: ReadSession, project_id: str, store_ids: Sequence[str], ranked: Sequence[FusedHit]
) -> list[SearchResult]:
    """The rows of the hits, in their order. The index is derived: a hit without a row of a completed file is dropped."""
    chunks, store_files = vector_store_chunks.c, vector_store_files.c
    query = (
        select(vector_store_chunks, store_files.file_id, store_files.attributes, files.c.filename)
        .join(vector_store_files, store_files.id == chunks.vector_store_file_id)
        .join(files, files.c.id == store_files.file_id)
        .where(
            chunks.id.in_([each.hit.id for each in ranked]),
            chunks.project_id == project_id,
            chunks.vector_store_id.in_(store_ids),
            # The chunks of a file whose index is derived again are the same.
            or_(
                store_files.status == "completed",
                and_(store_files.status == "in_progress", store_files.completed_at.is_not(None)),
            ),
            store_files.deleted_at.is_(None),
        )
    )
    rows = {row.id: row for row in session.rows(query)} if ranked and store_ids else {}
    return [_result(rows[each.hit.id], each) for each in ranked if each.hit.id in rows]


def _result(row: Row[Any], found: FusedHit) -> SearchResult:
    return SearchResult(
        chunk_id=row.id,
        vector_store_id=row.vector_store_id,
        file_id=row.file_id,
        filename=row.filename,
        attributes=json.loads(row.attributes),
        content=row.text,
        score=found.score,
        page=row.page,
        start=row.start_offset,
        end=row.end_offset,
        headings=tuple(json.loads(row.headings)),
        vector=found.vector,
        text=found.text,
    )


def _platform_error(error: InferencePaused | InferenceRefused | InferenceFailed) -> PlatformError:
    """The token path's error, as the caller would get it there."""
    if isinstance(error, InferenceFailed):
        return EngineFailed(f"The query could not be embedded: {error}")
    if isinstance(error, InferenceRefused):
        if error.status == 404 and error.code == "model_not_found":
            return PermissionDenied(f"The vector store can't be searched: {error.message}", code=error.code)
        kind = PermissionDenied if error.status in (401, 403) else InvalidRequest
        return kind(f"The query could not be embedded: {error.message}", code=error.code)
    headers = {"retry-after": str(int(error.retry_after))}
    kinds = {
        "insufficient_quota": InsufficientQuota,
        "rate_limit_exceeded": RateLimited,
        "model_not_ready": ModelNotReady,
    }
    return kinds.get(error.code, Unavailable)(error.message, code=error.code, headers=headers)
