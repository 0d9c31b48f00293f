"""The questions, each with the headings of the passages that answer it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KINDS", "Question", "questions", "reported"]

KINDS = ("natural", "keywords", "misspelled", "paraphrased")
_FILE = Path(__file__).with_name("questions.tsv")


@dataclass(frozen=True)
class Question:
    """`passages`: headings of `corpus`, each of which is right. `kind`: one of KINDS."""

    kind: str
    passages: frozenset[str]
    text: str


def questions() -> list[Question]:
    """All questions, in the order of the file."""
    with _FILE.open(newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Question(kind, frozenset(passages.split("|")), text) for kind, passages, text in rows]


def reported(found: list[Question]) -> list[Question]:
    """Every second question. Settings of the search were chosen by the others, so only these may be quoted."""
    return found[1::2]
