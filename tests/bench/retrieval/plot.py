"""The ranks as an SVG: recall@5 of each way to search, for all questions and for each kind of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from .measure import Ranks
from .metrics import recall
from .questions import KINDS, Question

__all__ = ["plot"]

_WIDTH, _HEIGHT = 820, 400
_LEFT, _TOP, _BOTTOM = 56, 66, 340
_BAR, _GAP = 28, 38
_COLORS = ("#8c959f", "#bf8700", "#0969da", "#1a7f37")
_FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


def plot(ranks: Ranks) -> str:
    """A picture of its own: a white back, and text in a font that every browser has."""
    groups = {"all questions": ranks, **{kind: _of_kind(ranks, kind) for kind in KINDS}}
    said = "; ".join(f"{mode} {_recall(places):.2f}" for mode, places in ranks.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' role="img" aria-labelledby="title description" font-family="{_FONT}" font-size="13">',
        '<title id="title">Recall at 5 by kind of question and way to search</title>',
        f'<desc id="description">All questions: {escape(said)}.</desc>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="15" font-weight="bold" fill="#1f2328">'
        "Questions whose passage is among the first five results</text>",
        *_legend(list(ranks)),
        *_grid(),
    ]
    for number, (name, group) in enumerate(groups.items()):
        lines += _group(_LEFT + _GAP / 2 + number * (len(ranks) * _BAR + _GAP), name, group)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _of_kind(ranks: Ranks, kind: str) -> Ranks:
    return {
        mode: {question: place for question, place in places.items() if question.kind == kind}
        for mode, places in ranks.items()
    }


def _recall(places: Mapping[Question, int | None]) -> float:
    return recall(list(places.values()), 5)


def _legend(modes: list[str]) -> Iterator[str]:
    for number, mode in enumerate(modes):
        x = _LEFT + number * 150
        yield f'<rect x="{x}" y="40" width="12" height="12" rx="2" fill="{_COLORS[number]}"/>'
        yield f'<text x="{x + 18}" y="51" fill="#1f2328">{escape(mode)}</text>'


def _grid() -> Iterator[str]:
    for tenth in range(0, 11, 2):
        y = _height(tenth / 10)
        yield f'<path d="M{_LEFT} {y:.1f} H{_WIDTH - 16}" stroke="#d0d7de" stroke-width="1"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#57606a">{tenth * 10} %</text>'


def _group(x: float, name: str, ranks: Ranks) -> Iterator[str]:
    for number, places in enumerate(ranks.values()):
        value = _recall(places)
        left, top = x + number * _BAR, _height(value)
        yield (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{_BAR - 4}" height="{_BOTTOM - top:.1f}" rx="2"'
            f' fill="{_COLORS[number]}"/>'
        )
        yield (
            f'<text x="{left + _BAR / 2 - 2:.1f}" y="{top - 5:.1f}" text-anchor="middle" font-size="11.5"'
            f' fill="#1f2328">{value * 100:.0f}</text>'
        )
    middle = x + (len(ranks) * _BAR - 4) / 2
    count = len(next(iter(ranks.values())))
    yield f'<text x="{middle:.1f}" y="{_BOTTOM + 22}" text-anchor="middle" fill="#1f2328">{escape(name)}</text>'
    yield f'<text x="{middle:.1f}" y="{_BOTTOM + 40}" text-anchor="middle" fill="#57606a" font-size="12">{count}</text>'


def _height(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP - 14)
