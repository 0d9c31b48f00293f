"""Counts of tokens for the size of chunks."""

from __future__ import annotations

import re
from typing import Protocol

__all__ = ["EstimatedTokens", "TokenCounter"]


class TokenCounter(Protocol):
    """Counts tokens as an embedding model does."""

    def __call__(self, texts: list[str], /) -> list[int]:
        """The number of tokens of each text, without the special tokens that a model adds to its input."""


class EstimatedTokens:
    """Counts without a tokenizer: rather too many than too few, so that a chunk fits its model.

    A word is a token and one more for every four letters after the first four; letters of other scripts than Latin are
    a token each, digits a token per two, and every punctuation mark is one.
    """

    _PART = re.compile(r"[A-Za-z]+|[0-9]+|[\u00c0-\u024f]+|[^\sA-Za-z0-9\u00c0-\u024f]")

    def __call__(self, texts: list[str], /) -> list[int]:
        return [self._count(text) for text in texts]

    def _count(self, text: str) -> int:
        return sum(_tokens_of(part) for part in self._PART.findall(text))


def _tokens_of(part: str) -> int:
    first = part[0]
    if first.isascii():
        if first.isalpha():
            return (len(part) + 3) // 4
        return (len(part) + 1) // 2 if first.isdigit() else 1
    if "\u00c0" <= first <= "\u024f":
        return len(part)
    # Emoji and rare scripts are several byte tokens in most vocabularies.
    return 1 if first <= "\uffff" else 4
