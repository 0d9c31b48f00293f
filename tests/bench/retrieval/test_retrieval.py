"""The questions have passages in the documents, and what is measured of ranks is right."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from ..report import render
from ..results import Results
from .corpus import documents, passages
from .measure import add_figures
from .metrics import ndcg, rank, recall
from .plot import plot
from .questions import KINDS, Question, questions, reported
from .searches import MODES


def result(headings: list[str], text: str) -> dict[str, Any]:
    return {"chunk": {"headings": headings}, "content": [{"text": text}]}


def test_every_question_has_a_passage_in_the_documents_of_this_python() -> None:
    headings = {heading for text in documents().values() for heading in passages(text)}
    assert [each for each in questions() if each.passages.isdisjoint(headings)] == []


def test_questions_are_many_different_and_of_all_kinds() -> None:
    asked = questions()
    assert len({each.text for each in asked}) == len(asked) >= 150
    assert {each.kind for each in asked} == {each.kind for each in reported(asked)} == set(KINDS)


def test_no_question_is_a_sentence_of_the_documents() -> None:
    text = " ".join(" ".join(documents().values()).lower().split())
    long = [each.text for each in questions() if len(each.text.split()) > 3]
    assert [each for each in long if each.lower().rstrip("?") in text] == []


def test_documents_are_the_same_each_time_and_have_headings() -> None:
    found = documents()
    assert found == documents()
    assert {"textwrap.dedent", "textwrap.TextWrapper.fill", "About textwrap"} <= passages(found["module-textwrap.md"])
    assert "Python topic: with" in passages(found["topic-with.md"])


def test_a_passage_is_found_by_its_heading_above_a_chunk_or_in_it() -> None:
    results = [
        result(["os", "os.walk"], "Visits."),
        result(["os"], "More.\n\nos.kill\n\nEnds."),
        result(["re"], "os.kill is"),
    ]
    assert rank(results, {"os.walk"}) == 1
    assert rank(results, {"os.kill", "os.abort"}) == 2
    assert rank(results, {"re.sub"}) is None
    assert rank([], {"os.walk"}) is None


@pytest.mark.parametrize(
    ("ranks", "recall_at_5", "ndcg_at_10"),
    [([1], 1, 1), ([None], 0, 0), ([5], 1, 0.3869), ([6], 0, 0.3562), ([11], 0, 0), ([1, None, 3, 7], 0.5, 0.4583)],
)
def test_recall_and_ndcg(ranks: list[int | None], recall_at_5: float, ndcg_at_10: float) -> None:
    assert recall(ranks, 5) == pytest.approx(recall_at_5)
    assert ndcg(ranks, 10) == pytest.approx(ndcg_at_10, abs=1e-4)


def ranks(**places: list[int | None]) -> dict[str, dict[Question, int | None]]:
    """Ranks of the modes of a keyword each; `_` stands for a space."""
    asked = [Question(KINDS[n % 4], frozenset({f"p{n}"}), f"q{n}") for n in range(4)]
    return {mode: dict(zip(asked, found, strict=True)) for mode, found in places.items()}


def test_the_ratio_compares_the_hybrid_search_with_its_better_half() -> None:
    results = Results()
    add_figures(results, ranks(dense=[1, 9, None, 9], BM25=[9, 1, 2, None], hybrid=[1, 1, 3, 9]))
    assert "RATIO hybrid_recall_at_5_vs_best_single 1.500" in render(results).splitlines()


def test_the_plot_shows_the_recall_of_each_mode() -> None:
    drawn = plot(dict(zip(MODES, ranks(a=[1] * 4, b=[None] * 4, c=[1, 1, 9, 1], d=[1, 9, 9, 9]).values(), strict=True)))
    root = ElementTree.fromstring(drawn)
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    shown = [int(word) for word in words if re.fullmatch(r"\d+", word)]
    assert shown[:5] == [100, 0, 75, 25, 4]
    assert set(MODES) | set(KINDS) <= set(words)
