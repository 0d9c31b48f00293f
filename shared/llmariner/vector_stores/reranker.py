"""Reranking of search results by a model that reads the query with each text."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed

__all__ = ["ModelReranker", "Reranker"]

# A model that sleeps is woken, and ready for a later search.
_WAIT_SECONDS = 3.0
_SECONDS = 10.0


class Reranker(Protocol):
    """A cross-encoder: scores texts against a query."""

    @property
    def model(self) -> str:
        """The name of the model."""

    def scores(self, query: str, texts: Sequence[str], originator: Originator, deadline: float) -> Sequence[float]:
        """A score from 0 to 1 for each text, by the deadline. Raises InferencePaused, InferenceRefused, InferenceFailed."""


class ModelReranker:
    """A `Reranker` that asks `POST /v1/rerank`, on behalf of the originator. Blocks for at most 10 seconds."""

    def __init__(self, client: InferenceClient, model: str) -> None:
        self._client = client
        self._model = model

    @property
    def model(self) -> str:
        """See the protocol."""
        return self._model

    def scores(self, query: str, texts: Sequence[str], originator: Originator, deadline: float) -> Sequence[float]:
        """See the protocol. What is longer than the model's input is cut off. Scores of other ranges are cut to 0 and 1."""
        body = {"model": self._model, "query": query, "documents": list(texts), "truncate_prompt_tokens": -1}
        deadline = min(deadline, time.monotonic() + _SECONDS)
        answer = self._client.call("rerank", originator, body, wait_seconds=_WAIT_SECONDS, deadline=deadline)
        return _scores(answer, len(texts))


def _scores(answer: dict[str, Any], count: int) -> list[float]:
    """The scores of an answer in the order of its texts. An engine is not trusted to give one for each."""
    try:
        by_index = {row["index"]: float(row["relevance_score"]) for row in answer["results"]}
        scores = [by_index[index] for index in range(count)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InferenceFailed("The engine did not return one score for each text.") from error
    if not all(math.isfinite(score) for score in scores):
        raise InferenceFailed("The engine returned a score that is not finite.")
    return [min(max(score, 0.0), 1.0) for score in scores]
