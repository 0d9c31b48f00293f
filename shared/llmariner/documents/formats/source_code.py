"""Source code and configuration files: runs of lines that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.source import Source

__all__ = ["read"]

_BLANK_LINES = re.compile(r"\n[ \t\n]*\n")
_INSIDE = tuple(" \t)]}")


def read(source: Source) -> Iterator[Block]:
    """A block of code per definition, as far as blank lines and indentation show them."""
    text = source.text()
    start = 0
    for separator in _BLANK_LINES.finditer(text):
        # A line that is indented, or ends what stands before, belongs to the same definition in most languages.
        if text.startswith(_INSIDE, separator.end()):
            continue
        yield Block(BlockKind.CODE, text[start : separator.start()])
        start = separator.end()
    yield Block(BlockKind.CODE, text[start:])
