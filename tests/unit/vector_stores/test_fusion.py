"""Reciprocal rank fusion."""

from __future__ import annotations

import pytest

from llmariner.platform.vectors import Hit
from llmariner.vector_stores.fusion import FusedHit, fuse


def hits(*ids: str) -> list[Hit]:
    return [Hit(id_, "vs_1", "vsf_1", id_, 1 / (place + 1)) for place, id_ in enumerate(ids)]


def ids(fused: list[FusedHit]) -> list[str]:
    return [each.hit.id for each in fused]


def test_a_chunk_that_both_halves_find_comes_before_one_that_is_first_in_one() -> None:
    assert ids(fuse(hits("a", "b"), hits("c", "b"))) == ["b", "a", "c"]


def test_a_chunk_that_is_first_in_one_half_comes_before_one_that_is_far_down_in_both() -> None:
    far = [f"x{number}" for number in range(38)]
    fused = fuse(hits("first", *far, "late"), hits(*(f"y{number}" for number in range(39)), "late"))
    assert ids(fused).index("first") < ids(fused).index("late")


def test_the_score_is_1_for_the_first_of_both_and_falls_with_the_ranks() -> None:
    first, second, third = fuse(hits("a", "b", "c"), hits("a", "b"))
    assert first.score == pytest.approx(1)
    assert second.score == pytest.approx(11 / 12)
    assert third.score == pytest.approx(11 / 13 / 2)


def test_each_result_says_what_each_half_gave() -> None:
    (found,) = [each for each in fuse(hits("a", "b"), hits("b")) if each.hit.id == "b"]
    assert found.vector is not None
    assert found.text is not None
    assert (found.vector.rank, found.vector.score, found.text.rank, found.text.score) == (2, 0.5, 1, 1.0)
    (alone,) = [each for each in fuse(hits("a", "b"), hits("b")) if each.hit.id == "a"]
    assert alone.text is None


def test_weights_decide_between_halves_and_0_switches_one_off() -> None:
    assert ids(fuse(hits("a"), hits("b"), vector_weight=2)) == ["a", "b"]
    assert ids(fuse(hits("a"), hits("b"), text_weight=2)) == ["b", "a"]
    only = fuse(hits("a"), hits("b"), text_weight=0)
    assert ids(only) == ["a"]
    assert only[0].score == pytest.approx(1)


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1000])
def test_only_the_ratio_of_the_weights_counts(weight: float) -> None:
    scaled = fuse(hits("a", "b"), hits("b"), vector_weight=weight, text_weight=weight)
    assert [each.score for each in scaled] == [each.score for each in fuse(hits("a", "b"), hits("b"))]
    assert max(each.score for each in fuse(hits("a"), hits("a"), vector_weight=weight, text_weight=0.3)) <= 1


def test_equal_scores_are_in_the_order_of_ids_and_a_repeated_hit_counts_once() -> None:
    assert ids(fuse(hits("z"), hits("a"))) == ["a", "z"]
    (once,) = fuse(hits("a", "a"), [])
    assert once.score == pytest.approx(0.5)


def test_nothing_is_found_where_no_half_finds_something() -> None:
    assert fuse([], []) == []
