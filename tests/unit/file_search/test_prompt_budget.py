"""The passages that fit into a context: the best ones, as many as fit, counted as the model counts."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from llmariner.file_search.passages import Passage
from llmariner.file_search.prompt_budget import completion_reserve, fitting

BASE = 50


def passage(words: int, word: str = "word") -> Passage:
    return Passage("file-1", "a.md", " ".join([word] * words), None, {})


def tokens(passages: Sequence[Passage]) -> int:
    return BASE + sum(len(each.text.split()) + 6 for each in passages)


def fit(passages: Sequence[Passage], room: int, bound: int | None = None, *, answers: bool = True) -> list[Passage]:
    asked = itertools.count(1)

    async def count(some: Sequence[Passage]) -> int | None:
        assert next(asked) <= 8
        return tokens(some) if answers else None

    return asyncio.run(fitting(passages, room, bound, count))


def test_everything_fits_by_a_bound_or_a_count() -> None:
    passages = [passage(100), passage(200)]
    assert fit(passages, 10_000, bound=5000, answers=False) == passages
    assert fit(passages, tokens(passages), bound=5000) == passages
    assert fit(passages, tokens(passages)) == passages
    assert fit([], 0) == []


def test_the_best_that_fit_are_kept_in_their_order() -> None:
    passages = [passage(100), passage(5000), passage(120), passage(110)]
    assert fit(passages, 450) == [passages[0], passages[2], passages[3]]
    assert fit(passages, 300) == [passages[0], passages[2]]
    assert fit(passages, BASE + 10) == []
    assert fit(passages, -5) == []


def test_the_room_is_kept_whatever_the_density_of_the_texts() -> None:
    chance = random.Random(7)
    for _ in range(60):
        passages = [passage(chance.randrange(1, 400), chance.choice("ab") * chance.randrange(1, 12)) for _ in range(20)]
        room = chance.randrange(0, 4000)
        found = fit(passages, room)
        assert not found or tokens(found) <= room
        assert [each for each in passages if any(each is other for other in found)] == found


def test_without_a_count_a_byte_is_a_token() -> None:
    passages = [passage(100), passage(100)]
    bound = BASE + 2 * (499 + 128)
    assert fit(passages, bound - 1, bound, answers=False) == passages[:1]
    assert fit(passages, BASE, bound, answers=False) == []


@pytest.mark.parametrize(("maximum", "reserve"), [(None, 1024), (10, 10), (5000, 5000)])
def test_the_answer_has_its_tokens(maximum: int | None, reserve: int) -> None:
    assert completion_reserve(maximum, 8192) == reserve
    assert completion_reserve(None, 2048) == 512
