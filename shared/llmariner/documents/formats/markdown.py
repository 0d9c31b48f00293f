"""Markdown: ATX and Setext headings, fenced code, pipe tables (GitHub Flavored Markdown), paragraphs.

Inline marks stay as they are: models read them well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.source import Source

__all__ = ["read"]

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*$")
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_DELIMITER_ROW = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
# Regular expressions see no line beyond this: theirs is not the place for a line of megabytes.
_LINE_CHARACTERS = 2000


def read(source: Source) -> Iterator[Block]:
    """The blocks of a Markdown document."""
    return _Parser(source.text().split("\n")).blocks()


class _Parser:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._position = 0
        self._paragraph: list[str] = []

    def blocks(self) -> Iterator[Block]:
        while self._position < len(self._lines):
            line = self._lines[self._position]
            found = self._special(line) if len(line) <= _LINE_CHARACTERS else None
            if found is not None:
                yield from self._flush()
                yield found
            elif not line.strip():
                yield from self._flush()
                self._position += 1
            else:
                self._paragraph.append(line)
                self._position += 1
        yield from self._flush()

    def _flush(self) -> Iterator[Block]:
        if self._paragraph:
            yield Block(BlockKind.PARAGRAPH, "\n".join(self._paragraph))
            self._paragraph = []

    def _special(self, line: str) -> Block | None:
        """The block that begins in this line, unless it is a paragraph. It is consumed."""
        if heading := _ATX.match(line):
            self._position += 1
            text = _CLOSING_HASHES.sub("", heading[2] or "").strip()
            return Block(BlockKind.HEADING, text, level=len(heading[1]))
        if fence := _FENCE.match(line):
            return self._code(fence[1])
        if "|" in line and self._is_delimiter_row(self._position + 1):
            return self._table()
        if len(self._paragraph) == 1 and (underline := _UNDERLINE.match(line)):
            self._position += 1
            title = self._paragraph.pop().strip()
            return Block(BlockKind.HEADING, title, level=1 if underline[1].startswith("=") else 2)
        return None

    def _code(self, fence: str) -> Block:
        start = self._position + 1
        end = start
        while end < len(self._lines):
            line = self._lines[end].strip()
            if line.startswith(fence) and not line.strip(fence[0]):
                break
            end += 1
        self._position = end + 1
        return Block(BlockKind.CODE, "\n".join(self._lines[start:end]))

    def _is_delimiter_row(self, position: int) -> bool:
        if position >= len(self._lines):
            return False
        line = self._lines[position]
        return len(line) <= _LINE_CHARACTERS and "|" in line and _DELIMITER_ROW.match(line) is not None

    def _table(self) -> Block:
        start = self._position
        end = start + 2
        while end < len(self._lines) and "|" in self._lines[end]:
            end += 1
        self._position = end
        return Block(BlockKind.TABLE, "\n".join(line.strip() for line in self._lines[start:end]))
