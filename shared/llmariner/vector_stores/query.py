"""A query of vector stores, and its rewriting for search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llmariner.platform.vectors import Filter
from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed

__all__ = [
    "MAX_QUERIES",
    "MAX_QUERY_LENGTH",
    "MAX_RESULTS",
    "MAX_STORES",
    "ModelRewriter",
    "Ranker",
    "Rewriter",
    "SearchQuery",
    "keywords",
]

MAX_RESULTS = 50
MAX_QUERIES = 10
MAX_QUERY_LENGTH = 4096
"""Characters of one query, as OpenAI allows."""
MAX_STORES = 10
"""Vector stores of one search."""

Ranker = Literal["none", "auto", "default-2024-11-15"]

_WORD = re.compile(r"\w[\w'’.+#-]*")
# Words of questions and requests in English, which match any text.
_STOP_WORDS = """
a about an and any are as at be been by can could did do does for from give had has have how i if in into is
it its know like may me might my of on or our please shall should show so tell than that the their them then
there these they this those to us was we were what when where which who whom whose why will with would you
your
"""
_INSTRUCTION = (
    "Rewrite the user's question as a short search query for a text index: keep names, numbers and terms, "
    "drop filler words. Answer with the query alone."
)
_MAX_REWRITTEN_LENGTH = 1000


@dataclass(frozen=True)
class SearchQuery:
    """What to search for.

    `texts`: 1 to `MAX_QUERIES` of up to `MAX_QUERY_LENGTH` characters; a chunk that several find counts with its best
    score. `max_results`: 1 to `MAX_RESULTS`. `ranker` none: by similarity alone. `score_threshold`: 0 to 1. The weights of
    the halves are not negative, and not both 0.
    """

    texts: tuple[str, ...]
    filters: Filter | None = None
    max_results: int = 10
    ranker: Ranker = "auto"
    score_threshold: float = 0.0
    rewrite: bool = False
    vector_weight: float = 1.0
    text_weight: float = 1.0

    @property
    def is_by_vector(self) -> bool:
        """Whether it searches by similarity, and so has its texts embedded."""
        return self.ranker == "none" or self.vector_weight > 0

    @property
    def is_by_words(self) -> bool:
        """Whether it searches by words."""
        return self.ranker != "none" and self.text_weight > 0


class Rewriter(Protocol):
    """Rewrites a question as a query."""

    def __call__(self, text: str, originator: Originator, deadline: float, /) -> str:
        """The query, by the deadline (`time.monotonic()`). Raises InferencePaused or InferenceRefused."""


def keywords(text: str) -> str:
    """The words of a text without those that carry no meaning; the text itself if nothing remains."""
    stop_words = _STOP_WORDS.split()
    kept = [word for word in _WORD.findall(text) if word.lower() not in stop_words]
    return " ".join(word.rstrip(".'’-") for word in kept) or text


class ModelRewriter:
    """A `Rewriter` that asks a chat model, on behalf of the originator."""

    def __init__(self, client: InferenceClient, model: str, *, wait_seconds: float = 30.0) -> None:
        self._client = client
        self._model = model
        self._wait_seconds = wait_seconds

    def __call__(self, text: str, originator: Originator, deadline: float, /) -> str:
        """The model's query; the words of the text if its answer is not usable."""
        messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": text}]
        body = {"model": self._model, "messages": messages, "max_completion_tokens": 100, "temperature": 0}
        try:
            answer = self._client.call(
                "chat/completions", originator, body, wait_seconds=self._wait_seconds, deadline=deadline
            )
            return _line(answer) or keywords(text)
        except InferenceFailed:
            return keywords(text)


def _line(answer: dict[str, Any]) -> str:
    """The first line of a model's answer; empty if there is none. A model is not trusted to answer as it was asked."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    lines = str(content or "").strip().splitlines()
    return lines[0].strip(' "').replace("\0", "")[:_MAX_REWRITTEN_LENGTH] if lines else ""
