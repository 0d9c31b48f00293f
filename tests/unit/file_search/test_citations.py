"""Citations: of what a passage says, word for word where nothing marks them, and of nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmariner.file_search.citations import Citations
from llmariner.file_search.passages import Passage

OFFICE = "Office hours\n\nThe office in Lyon closes at six in the evening. On Fridays it closes at four."
LEAVE = "Everybody has 30 days of leave in a year, and nobody may carry over more than 5 of them."
TOKYO = "東京の本社は午前九時に開きます。大阪の支社は午後五時に閉まります。"
HIDDEN = "The alarm code of the vault \u202eis 1234 and nobody may tell it\u202c to anyone."


def passage(text: str, number: int) -> Passage:
    return Passage(f"file-{number}", f"{number}.md", text, number, {})


PASSAGES = [passage(text, number) for number, text in enumerate((OFFICE, LEAVE, TOKYO, HIDDEN), 1)]


def cited(text: str) -> list[tuple[str, str]]:
    """The file and the quote of each citation, each quote being a piece of its passage."""
    found = Citations(PASSAGES).annotations(text)
    by_file = {each.file_id: each for each in PASSAGES}
    for each in found:
        assert each["type"] == "file_citation"
        assert 0 <= each["index"] <= len(text)
        assert each["quote"] in by_file[each["file_id"]].text
        assert (each["filename"], each["page"]) == (by_file[each["file_id"]].filename, by_file[each["file_id"]].page)
    return [(each["file_id"], each["quote"]) for each in found]


SIX, FOUR = "The office in Lyon closes at six in the evening.", "On Fridays it closes at four."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Lyon office closes at six [1].", [("file-1", SIX)]),
        ("The Lyon office closes at six. [1]", [("file-1", SIX)]),
        (
            "On Fridays it closes at four [1], and the Lyon office closes at six [1].",
            [("file-1", FOUR), ("file-1", SIX)],
        ),
        ("Hello! You have 30 days of leave in a year [2, 1].", [("file-2", LEAVE)]),
        ("You have 30 days of leave in a year [2][2].", [("file-2", LEAVE), ("file-2", LEAVE)]),
        ("東京の本社は午前九時に開きます[3]。", [("file-3", "東京の本社は午前九時に開きます。")]),
        # Without a marker, or with a wrong one: what stands in the passage word for word.
        ("The office in Lyon closes at six.", [("file-1", "The office in Lyon closes at six")]),
        ("The office in Lyon closes at six [2].", [("file-1", "The office in Lyon closes at six")]),
        ("[1] The office in Lyon closes at six.", [("file-1", "The office in Lyon closes at six")]),
        ("So: the office in LYON closes at six, they say.", [("file-1", "The office in Lyon closes at six")]),
        ("大阪の支社は午後五時に閉まります。", [("file-3", "大阪の支社は午後五時に閉まります")]),
    ],
)
def test_a_statement_of_a_passage_is_cited(text: str, found: list[tuple[str, str]]) -> None:
    assert cited(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "[1][2][3]",
        "The moon is made of cheese [1].",
        "The Lyon office closes at six [5].",
        "The Lyon office closes at six [0].",
        "The Lyon office closes at six [007].",
        "The Lyon office closes at six [-1].",
        "The Lyon office does not close at six [1].",
        "The office in Lyon closes at six in the evening never.",
        "Nobody has 30 days of leave in a year [2].",
        "Everybody has 30 days of leave in a month.",
        "Everybody has -30 days of leave in a year [2].",
        "Everybody has 30% days of leave in a year.",
        "The office in Lyon closes at six, which is not true.",
        "You have 31 days of leave in a year [2].",
        "You have 30 days of leave in 2026 [2].",
        "Everybody has thirty horses.",
        "It closes at four.",
        "Yes [1].",
        "東京の支社は深夜に爆発します[3]。",
        # Words in another order, or with a gap.
        "In Lyon the office at six closes.",
        "The office in Paris closes at five in the evening on all days of the week.",
    ],
)
def test_a_statement_that_no_passage_has_is_not_cited(text: str) -> None:
    assert cited(text) == []


def test_a_quote_holds_no_invisible_characters() -> None:
    for text in ("The alarm code of the vault is 1234 and nobody may tell it [4].", HIDDEN, HIDDEN + " [4]"):
        for _, quote in cited(text):
            assert "\u202e" not in quote
            assert "\u202c" not in quote


def test_the_index_is_the_place_of_the_marker_or_the_end_of_the_sentence() -> None:
    text = "So. The Lyon office closes at six [1]. Fine."
    [marked] = Citations(PASSAGES).annotations(text)
    assert text[marked["index"] :].startswith("[1]")
    text = "So. The office in Lyon closes at six. Fine."
    [repeated] = Citations(PASSAGES).annotations(text)
    assert text[: repeated["index"]].endswith("at six.")


def test_repetitions_are_searched_in_a_bounded_number_of_words() -> None:
    filler = passage(" ".join(f"w{number}" for number in range(60_000)), 1)
    assert Citations([filler, passage(SIX, 2)]).annotations(SIX) == []
    assert len(Citations([passage(SIX, 1), filler]).annotations(SIX)) == 1
    assert len(Citations([filler, passage(SIX, 2)]).annotations(SIX[:-1] + " [2].")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[1]" * 170_000,
        "[1 " * 170_000,
        "[" * 500_000,
        "[1" + " " * 500_000,
        "a " * 100_000,
        "a. " * 60_000,
        ". " * 90_000,
        (SIX + " ") * 3_000,
        (SIX[:-1] + " [1]. ") * 3_000,
        "the office in " * 35_000,
        "\u202e" * 500_000,
        "東" * 200_000,
        (SIX[:-1] + ", ") * 10_000 + "not.",
        "The office in Lyon never closes at six [" + ",".join("2" * 150_000) + "]",
    ],
)
def test_a_long_answer_takes_linear_time(text: str) -> None:
    passages: list[Any] = [passage("a " * 4000, 1), passage(SIX * 80, 2), passage("the office in " * 300, 3)]
    began = time.process_time()
    found = Citations(passages * 16).annotations(text)
    assert time.process_time() - began < 10
    assert len(found) <= 100


def test_the_answers_of_a_response_share_the_limit_of_checks() -> None:
    clauses = "The office in Lyon closes, " * 500
    citations = Citations([passage(f"{clauses}{number}.", number) for number in range(1, 51)])
    numbers = ",".join(map(str, range(1, 51)))
    began = time.process_time()
    found = [citations.annotations(f"The office in Lyon never closes [{numbers}]. " * 20) for _ in range(128)]
    assert time.process_time() - began < 10
    assert not any(found)
