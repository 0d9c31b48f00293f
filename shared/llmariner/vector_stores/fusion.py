"""Reciprocal rank fusion of two rankings (Cormack, Clarke, Büttcher: SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmariner.platform.vectors import Hit

__all__ = ["FusedHit", "Ranked", "fuse"]

_K = 10
"""Less than the paper's 60, which suits many rankings of a thousand: with two of some dozen, first ranks must count more.

Measured on the questions of `tests/bench/retrieval`.
"""


@dataclass(frozen=True)
class Ranked:
    """What one half of a search gave for a chunk. `rank`: from 1. `score`: of that half, in its own range."""

    rank: int
    score: float


@dataclass(frozen=True)
class FusedHit:
    """A chunk in the order of the fusion. `score`: 0..1, where 1 is first in every half that counts.

    `vector`, `text`: None where that half did not find the chunk.
    """

    hit: Hit
    score: float
    vector: Ranked | None
    text: Ranked | None


def fuse(
    by_vector: Sequence[Hit], by_text: Sequence[Hit], *, vector_weight: float = 1.0, text_weight: float = 1.0
) -> list[FusedHit]:
    """The union of two rankings, best first; chunks of equal score are in the order of their ids.

    Weights are not negative, and not both 0. A half of weight 0 finds nothing.
    """
    # As shares: sums of the least weights, divided, would be 0.
    total = vector_weight + text_weight
    shares = (vector_weight / total, text_weight / total)
    found: dict[str, Hit] = {}
    ranks: list[dict[str, Ranked]] = []
    for hits, share in zip((by_vector, by_text), shares, strict=True):
        half: dict[str, Ranked] = {}
        for hit in hits if share > 0 else ():
            if hit.id not in half:
                half[hit.id] = Ranked(len(half) + 1, hit.score)
                found.setdefault(hit.id, hit)
        ranks.append(half)

    def score(id_: str) -> float:
        parts = zip(shares, ranks, strict=True)
        return sum(share * (_K + 1) / (_K + half[id_].rank) for share, half in parts if id_ in half)

    fused = [FusedHit(hit, score(id_), ranks[0].get(id_), ranks[1].get(id_)) for id_, hit in found.items()]
    return sorted(fused, key=lambda each: (-each.score, each.hit.id))
