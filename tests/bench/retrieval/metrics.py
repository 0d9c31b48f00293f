"""Measures of one search, for a question with one right passage. A rank is from 1; None: it was not found."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["ndcg", "rank", "recall"]


def rank(results: Iterable[Mapping[str, Any]], passages: Collection[str]) -> int | None:
    """The place of the first result that holds a part of a passage: it is under its heading, or contains it."""
    for place, result in enumerate(results, 1):
        lines = (line for part in result["content"] for line in part["text"].splitlines())
        if not set(passages).isdisjoint([*result["chunk"]["headings"], *lines]):
            return place
    return None


def recall(ranks: Sequence[int | None], depth: int) -> float:
    """The share of questions whose passage is among the first `depth` results."""
    return sum(place is not None and place <= depth for place in ranks) / len(ranks)


def ndcg(ranks: Sequence[int | None], depth: int) -> float:
    """Normalized discounted cumulative gain: 1 / log2(1 + rank), averaged; 1 if every passage is first."""
    return sum(1 / math.log2(1 + place) for place in ranks if place is not None and place <= depth) / len(ranks)
