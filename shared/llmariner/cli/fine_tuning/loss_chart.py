"""A chart of losses by step in characters: the training as a line of Braille dots, validations as crosses.

Pure functions of numbers; `*` and `x` stand in for both where the terminal has no Unicode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Chart", "draw"]

Point = tuple[int, float]
_DOTS_WIDE, _DOTS_HIGH = 2, 4
# The bits of a Braille character by column and row of its dots (Unicode 17, section 21.1).
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800
_LABEL = 8
"""Characters of the numbers at the left, with the space behind them."""
_MIN_COLUMNS = 12


@dataclass(frozen=True)
class Chart:
    """Lines of text. `crosses`: (line, column) of each validation, for its color."""

    lines: list[str]
    crosses: list[tuple[int, int]]


def draw(
    training: Sequence[Point],
    validation: Sequence[Point],
    total_steps: int,
    *,
    width: int,
    height: int,
    unicode: bool = True,
) -> Chart:
    """The chart of (step from 1, loss) in a rectangle of characters, axes included; empty without any finite loss.

    A column shows the mean of its steps, so that noise of single steps does not hide the curve.
    """
    columns, rows = max(_MIN_COLUMNS, width - _LABEL - 1), max(2, height - 2)
    line = _means(training, total_steps, columns * _DOTS_WIDE)
    marks = _means(validation, total_steps, columns)
    values = [*line.values(), *marks.values()]
    if not values:
        return Chart([], [])
    low, high = _bounds(values)
    cells = [[0] * columns for _ in range(rows)]
    before: tuple[int, int] | None = None
    for x in sorted(line):
        y = _row(line[x], low, high, rows * _DOTS_HIGH)
        for dot_x, dot_y in _segment(before, (x, y)):
            cells[dot_y // _DOTS_HIGH][dot_x // _DOTS_WIDE] |= _BITS[dot_x % _DOTS_WIDE][dot_y % _DOTS_HIGH]
        before = (x, y)
    texts = [[_character(bits, unicode=unicode) for bits in row] for row in cells]
    crosses = []
    for x, value in sorted(marks.items()):
        y = _row(value, low, high, rows)
        texts[y][x] = "×" if unicode else "x"
        crosses.append((y, x + _LABEL + 1))
    return Chart(_with_axes(texts, low, high, total_steps, unicode=unicode), crosses)


def _means(points: Iterable[Point], total: int, columns: int) -> dict[int, float]:
    """The mean loss by column."""
    sums: dict[int, tuple[float, int]] = {}
    for step, loss in points:
        if not math.isfinite(loss):
            continue
        column = min(columns - 1, max(0, round((step - 1) / max(1, total - 1) * (columns - 1))))
        known, count = sums.get(column, (0.0, 0))
        sums[column] = (known + loss, count + 1)
    return {column: value / count for column, (value, count) in sums.items()}


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-9:
        return low - 0.5, high + 0.5
    return low, high


def _row(value: float, low: float, high: float, rows: int) -> int:
    """The row of a value, from the top."""
    return min(rows - 1, max(0, round((high - value) / (high - low) * (rows - 1))))


def _segment(before: tuple[int, int] | None, point: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots from one point, exclusively, to the next one."""
    if before is None:
        return [point]
    (x0, y0), (x1, y1) = before, point
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [
        (x0 + round((x1 - x0) * part / count), y0 + round((y1 - y0) * part / count)) for part in range(1, count + 1)
    ]


def _character(bits: int, *, unicode: bool) -> str:
    if not bits:
        return " "
    return chr(_BLANK + bits) if unicode else "*"


def _with_axes(texts: list[list[str]], low: float, high: float, total: int, *, unicode: bool) -> list[str]:
    edge, corner, rule = ("│", "└", "─") if unicode else ("|", "+", "-")
    rows, columns = len(texts), len(texts[0])
    labeled = {0, rows - 1} | ({rows // 2} if rows > 4 else set())
    values = [high - (high - low) * number / (rows - 1) for number in range(rows)]
    lines = [
        f"{_label(values[number]) if number in labeled else '':>{_LABEL - 1}} {edge}{''.join(row)}".rstrip()
        for number, row in enumerate(texts)
    ]
    last = f"step {total:,}"
    return [*lines, " " * _LABEL + corner + rule * columns, " " * (_LABEL + 1) + "1" + f"{last:>{columns - 1}}"]


def _label(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"
