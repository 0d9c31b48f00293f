"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["markdown_table"]

_SPACE = re.compile(r"\s+")


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose header is the first row; empty without a row that has text. Empty rows are left out.

    Every row has its own number of cells, so that one wide row does not widen all others.
    """
    lines: list[str] = []
    for cells in _filled(rows):
        lines.append(f"| {' | '.join(cells)} |")
        if len(lines) == 1:
            lines.append("|" + " --- |" * len(cells))
    return "\n".join(lines)


def _filled(rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    for row in rows:
        cells = [_SPACE.sub(" ", cell).strip().replace("|", "\\|") for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield cells
