"""Source code and configuration files: runs of lines that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.source import Source

__all__ = ["read"]

# Blank lines before a line that is not indented: between functions and classes in most languages.
_BETWEEN_DEFINITIONS = re.compile(r"\n(?:[ \t]*\n)+(?=[^\s)}\]])")


def read(source: Source) -> Iterator[Block]:
    """A block of code per definition, as far as blank lines and indentation show them."""
    text = source.text()
    start = 0
    for separator in _BETWEEN_DEFINITIONS.finditer(text):
        yield Block(BlockKind.CODE, text[start : separator.start()])
        start = separator.end()
    yield Block(BlockKind.CODE, text[start:])
