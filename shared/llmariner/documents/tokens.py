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

    A Latin word is a token for every four letters, letters with diacritics and those of Greek, Cyrillic, Hebrew and Arabic
    are a token each, those of other scripts two. Digits and punctuation marks are one each, emoji four.
    """

    _PART = re.compile(r"[A-Za-z]+|[0-9]+|[\u00c0-\u024f]+|[^\sA-Za-z0-9\u00c0-\u024f]")

    def __call__(self, texts: list[str], /) -> list[int]:
        return [self._count(text) for text in texts]

    def _count(self, text: str) -> int:
        return sum(_tokens_of(part) for part in self._PART.findall(text))


def _tokens_of(part: str) -> int:
    first = part[0]
    if "0" <= first <= "9" or not first.isascii():
        return len(part) * _tokens_of_character(first)
    return (len(part) + 3) // 4


def _tokens_of_character(character: str) -> int:
    """Vocabularies made from English have few characters of scripts from Devanagari on: they are tokens of bytes."""
    if character < "\u0900":
        return 1
    return 2 if character <= "\uffff" else 4
