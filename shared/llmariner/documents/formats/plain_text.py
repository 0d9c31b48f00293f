"""Plain text: paragraphs between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.source import Source

__all__ = ["paragraphs", "read"]

_BLANK_LINES = re.compile(r"\n[ \t\n]*\n")


def read(source: Source) -> Iterator[Block]:
    """A block per paragraph."""
    return paragraphs(source.text())


def paragraphs(text: str, page: int | None = None) -> Iterator[Block]:
    """The paragraphs of a text that blank lines separate."""
    start = 0
    for separator in _BLANK_LINES.finditer(text):
        yield Block(BlockKind.PARAGRAPH, text[start : separator.start()], page)
        start = separator.end()
    yield Block(BlockKind.PARAGRAPH, text[start:], page)
