"""Counts of tokens by the embedding model's own tokenizer, in few requests.

Tokenizers split text at white space first, so the tokens of a text are those of its words. One request counts some thousand
words: they are sent with a mark between them, and the token of the mark separates the tokens of the answer.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from llmariner.documents.tokens import EstimatedTokens
from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed, InferenceRefused

__all__ = ["ModelTokens"]

_MARK = "|"
# The first mark of a text may be another token than those that follow a space.
_BEGIN = [_MARK, _MARK]
_MAX_WORDS = 4000
_MAX_WORD_LENGTH = 64
_MAX_KNOWN = 500_000
_WORD = re.compile(rf"\S{{1,{_MAX_WORD_LENGTH}}}")


class ModelTokens:
    """A `documents.tokens.TokenCounter` for one model. Words that it has not learned are estimated."""

    def __init__(self, client: InferenceClient, model: str, originator: Originator) -> None:
        self._client = client
        self._model = model.partition("@")[0]
        self._originator = originator
        self._estimated = EstimatedTokens()
        self._counts: dict[str, int] = {}
        self.max_tokens: int | None = None
        """The longest input of the model, once something was learned; None: it does not say."""

    def learn(self, texts: Iterable[str], *, wait_seconds: float, seconds: float = math.inf) -> None:
        """Count the words of some texts, as many as are counted in some seconds. One request at least.

        Raises InferencePaused; an engine without a tokenizer leaves it at estimates.
        """
        until = time.monotonic() + seconds
        words = dict.fromkeys(word for text in texts for word in _WORD.findall(text) if _MARK not in word)
        try:
            for batch in _batches(list(words)[:_MAX_KNOWN]):
                if time.monotonic() > until:
                    return
                self._counts.update(self._count(batch, wait_seconds))
        except (InferenceRefused, InferenceFailed):
            return

    def __call__(self, texts: list[str], /) -> list[int]:
        """The number of tokens of each text."""
        return [sum(self._tokens(word) for word in _WORD.findall(text)) for text in texts]

    def _tokens(self, word: str) -> int:
        known = self._counts.get(word)
        return self._estimated([word])[0] if known is None else known

    def _count(self, words: list[str], wait_seconds: float) -> dict[str, int]:
        prompt = " ".join([*_BEGIN, *(part for word in words for part in (word, _MARK))])
        body = {"model": self._model, "prompt": prompt, "add_special_tokens": False}
        answer = self._client.call("tokenize", self._originator, body, wait_seconds=wait_seconds)
        longest, tokens = answer.get("max_model_len"), answer.get("tokens")
        self.max_tokens = longest if isinstance(longest, int) and longest > 0 else None
        groups = _groups(tokens) if isinstance(tokens, list) else []
        # A tokenizer that joins marks with words can't be used in this way.
        return dict(zip(words, groups, strict=True)) if len(groups) == len(words) else {}


def _batches(words: list[str]) -> Iterator[list[str]]:
    # One batch without words still tells the length of the model's input.
    for start in range(0, max(len(words), 1), _MAX_WORDS):
        yield words[start : start + _MAX_WORDS]


def _groups(tokens: list[Any]) -> list[int]:
    """The lengths of the groups of tokens that end in a mark."""
    if len(tokens) < len(_BEGIN):
        return []
    mark, found, length = tokens[len(_BEGIN) - 1], [], 0
    for token in tokens[len(_BEGIN) :]:
        if token == mark:
            found.append(length)
            length = 0
        else:
            length += 1
    return found
