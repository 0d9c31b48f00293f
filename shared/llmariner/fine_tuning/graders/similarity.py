"""Similarity of two texts by OpenAI's `evaluation_metric`: each from 0 to 1. All but linear work is bounded.

Where each is from: `fuzzy_match` is rapidfuzz' `ratio` (2 x the longest common subsequence of characters by all characters);
BLEU is Papineni et al., 2002, of one sentence with the smoothing of sacreBLEU; GLEU is Wu et al., 2016; METEOR is Banerjee
and Lavie, 2005, of equal words; ROUGE is Lin, 2004, the F1 of the package rouge-score.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import pairwise

__all__ = ["METRICS", "comparisons", "similarity"]

_WORD = re.compile(r"\w+|[^\w\s]")
_LETTERS = re.compile(r"[^\W_]+")
_MAX_ORDER = 4
_MASKS_KEPT = 2048
"""25 MB for texts of 100,000 characters. The more are kept, the rarer are the characters whose bits are made again, which
takes as long as they are frequent: with 256, a text of 300 characters by turns takes four seconds.
"""
_SUBSEQUENCES = frozenset({"fuzzy_match", "rouge_l"})
_LONG = 10**8
"""Pairs of elements from which a comparison waits for others: hundredths of a second."""
_LONG_ONES = threading.Lock()
"""Python runs one of them at a time anyway; several would only let all other threads of the process, such as that of a
server, wait longer for their turns.
"""


def comparisons(metric: str, candidate: str, reference: str) -> int:
    """How many pairs of characters a metric compares, where that is not linear; else 0."""
    return len(candidate) * len(reference) if metric in _SUBSEQUENCES else 0


def similarity(metric: str, candidate: str, reference: str) -> float:
    """The similarity of an answer to a reference by one of `METRICS`."""
    return METRICS[metric](candidate, reference)


def _fuzzy_match(candidate: str, reference: str) -> float:
    if not candidate and not reference:
        return 1.0
    return 2 * _common_subsequence(candidate, reference) / (len(candidate) + len(reference))


def _bleu(candidate: str, reference: str) -> float:
    said, wanted = _words(candidate), _words(reference)
    if not said or not wanted:
        return float(said == wanted)
    logs, halving = [], 1.0
    for order in range(1, min(_MAX_ORDER, len(said)) + 1):
        found, total = _overlap(said, wanted, order), len(said) - order + 1
        if found == 0:
            if order == 1:
                return 0.0
            halving *= 2
        logs.append(math.log(found / total if found else 1 / (halving * total)))
    brevity = min(0.0, 1 - len(wanted) / len(said))
    return math.exp(brevity + sum(logs) / len(logs))


def _gleu(candidate: str, reference: str) -> float:
    said, wanted = _words(candidate), _words(reference)
    if not said or not wanted:
        return float(said == wanted)
    orders = range(1, _MAX_ORDER + 1)
    found = sum(_overlap(said, wanted, order) for order in orders)
    most = max(sum(max(0, len(each) - order + 1) for order in orders) for each in (said, wanted))
    return found / most


def _meteor(candidate: str, reference: str) -> float:
    said, wanted = _words(candidate), _words(reference)
    if not said or not wanted:
        return float(said == wanted)
    places: dict[str, list[int]] = {}
    for index in range(len(wanted) - 1, -1, -1):
        places.setdefault(wanted[index], []).append(index)
    pairs = [(index, places[word].pop()) for index, word in enumerate(said) if places.get(word)]
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(said), len(pairs) / len(wanted)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    chunks = 1 + sum((after[0] - before[0], after[1] - before[1]) != (1, 1) for before, after in pairwise(pairs))
    return float(mean * (1 - 0.5 * (chunks / len(pairs)) ** 3))


def _rouge(order: int) -> Callable[[str, str], float]:
    def score(candidate: str, reference: str) -> float:
        said, wanted = _letters(candidate), _letters(reference)
        sizes = [len(each) - order + 1 for each in (said, wanted)]
        return _f1(_overlap(said, wanted, order), *sizes) if min(sizes) > 0 else 0.0

    return score


def _rouge_l(candidate: str, reference: str) -> float:
    said, wanted = _letters(candidate), _letters(reference)
    return _f1(_common_subsequence(said, wanted), len(said), len(wanted)) if said and wanted else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy_match,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
    **{f"rouge_{order}": _rouge(order) for order in range(1, 6)},
    "rouge_l": _rouge_l,
}
"""By name. OpenAI's `cosine` compares embeddings, and belongs to its evaluations alone."""


def _f1(found: int, said: int, wanted: int) -> float:
    return 2 * found / (said + wanted)


def _words(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return _WORD.findall(text.lower())


def _letters(text: str) -> list[str]:
    """Words of letters and digits, in lower case."""
    return _LETTERS.findall(text.lower())


def _overlap(said: Sequence[str], wanted: Sequence[str], order: int) -> int:
    """How many sequences of so many words both have, each as often as the one that has it less often."""
    return (_sequences(said, order) & _sequences(wanted, order)).total()


def _sequences(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + order]) for at in range(len(words) - order + 1))


def _common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, of one pair of long ones at a time."""
    if len(first) * len(second) < _LONG:
        return _subsequence_length(first, second)
    with _LONG_ONES:
        return _subsequence_length(first, second)


def _subsequence_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """See `_common_subsequence`. By the bit-parallel algorithm of Hyyro, 2004.

    A row of the usual table is one integer: texts of 100,000 characters take a second, not an hour. The bits of an element's
    places are made again where many elements come by turns: of 100,000 different ones they would take 600 MB.
    """
    places: dict[Hashable, list[int]] = {}
    for index, each in enumerate(first):
        places.setdefault(each, []).append(index)

    @lru_cache(_MASKS_KEPT)
    def mask(element: Hashable) -> int:
        bits = bytearray(len(first) // 8 + 1)
        for index in places.get(element, ()):
            bits[index >> 3] |= 1 << (index & 7)
        return int.from_bytes(bits, "little")

    full = (1 << len(first)) - 1
    row = full
    for each in second:
        if each in places:
            met = row & mask(each)
            row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()
