"""The pieces of a document that chunks are made of: sentences, rows, lines, and parts of those that are too long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.tokens import TokenCounter

__all__ = ["BLOCK_SEPARATOR", "Boundary", "Passage", "Section", "divide", "split_passages"]

BLOCK_SEPARATOR = "\n\n"
"""What stands between blocks in the text of a document."""

# The end of a sentence, an item of a list, or a paragraph.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？]\s*|\n(?=[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t])|\n[ \t]*\n\s*")
_LINE_END = re.compile(r"\n+")
_DELIMITER_CHARACTERS = set("|:- \t")
_PASSAGE_CHARACTERS = 2_000
_HEADING_CHARACTERS = 200
_LEVELS = 9
# Passages whose tokens are counted in one call.
_BATCH = 256


class Boundary(IntEnum):
    """How good a place the end of a passage is to end a chunk."""

    CHARACTER = 0
    WORD = 1
    SENTENCE = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True)
class Section:
    """A heading. `start`: its offset in the text of the document."""

    level: int
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Passage:
    """`text` includes the white space that follows. `tokens`: -1 if they are not counted yet.

    `sections`: the headings that it stands under, the highest first; of a heading, itself too. `header`: of the table
    that it is a row of.
    """

    text: str
    start: int
    boundary: Boundary
    page: int | None
    sections: tuple[Section, ...]
    is_heading: bool = False
    header: str = ""
    tokens: int = -1

    @property
    def begins_section(self) -> bool:
        """It is the first passage of a heading."""
        return self.is_heading and self.sections[-1].start == self.start


def split_passages(blocks: Iterable[Block], count_tokens: TokenCounter, max_tokens: int) -> Iterator[Passage]:
    """The passages of a document, none longer than `max_tokens` unless it is a single character.

    Joined, their texts are the text of the document and a separator.
    """
    found = _uncounted(blocks)
    while batch := list(islice(found, _BATCH)):
        while pending := [passage for passage in batch if passage.tokens < 0]:
            counts = iter(count_tokens([passage.text for passage in pending]))
            counted = (p if p.tokens >= 0 else replace(p, tokens=max(1, next(counts))) for p in batch)
            batch = [part for passage in counted for part in _fit(passage, max_tokens)]
        yield from batch


def divide(passage: Passage, characters: int) -> list[Passage]:
    """The parts of a passage, of at most that many characters, divided at words where there are any."""
    parts: list[Passage] = []
    text, position = passage.text, 0
    while len(text) - position > characters:
        end = position + characters
        boundary = Boundary.CHARACTER
        space = max(text.rfind(" ", position + characters // 2, end), text.rfind("\n", position + characters // 2, end))
        if space >= position:
            end, boundary = space + 1, Boundary.WORD
        part = replace(passage, text=text[position:end], start=passage.start + position, boundary=boundary, tokens=-1)
        parts.append(part)
        position = end
    parts.append(replace(passage, text=text[position:], start=passage.start + position, tokens=-1))
    return parts


def _fit(passage: Passage, max_tokens: int) -> list[Passage]:
    if passage.tokens <= max_tokens or len(passage.text) == 1:
        return [passage]
    parts = -(-passage.tokens // max_tokens)
    return divide(passage, max(1, len(passage.text) // max(2, parts)))


def _uncounted(blocks: Iterable[Block]) -> Iterator[Passage]:
    start = 0
    sections: tuple[Section, ...] = ()
    for block in blocks:
        is_heading = block.kind is BlockKind.HEADING
        if is_heading:
            level = min(max(block.level, 1), _LEVELS)
            above = (section for section in sections if section.level < level)
            sections = (*above, Section(level, _shortened(block.text), start))
        for text, boundary, header in _pieces(block):
            passage = Passage(text, start, boundary, block.page, sections, is_heading, header)
            start += len(text)
            yield from divide(passage, _PASSAGE_CHARACTERS)


def _shortened(heading: str) -> str:
    text = " ".join(heading[: 2 * _HEADING_CHARACTERS].split())
    return text if len(text) <= _HEADING_CHARACTERS else f"{text[: _HEADING_CHARACTERS - 1]}…"


def _pieces(block: Block) -> Iterator[tuple[str, Boundary, str]]:
    """Text, boundary at its end, and table header of the passages of a block and its separator."""
    text = block.text + BLOCK_SEPARATOR
    if block.kind is BlockKind.HEADING:
        # A chunk does not end with a heading where it can be avoided.
        yield text, Boundary.CHARACTER, ""
        return
    header = _table_header(block)
    if header:
        yield header, Boundary.CHARACTER, ""
    ends = _SENTENCE_END if block.kind is BlockKind.PARAGRAPH else _LINE_END
    inner = Boundary.WORD if block.kind is BlockKind.CODE else Boundary.SENTENCE
    position = len(header)
    for end in ends.finditer(text, position, len(block.text)):
        # Blank lines divide code better than the ends of lines.
        boundary = Boundary.SENTENCE if end[0].count("\n") > 1 else inner
        yield text[position : end.end()], boundary, header
        position = end.end()
    if position < len(text):
        yield text[position:], Boundary.BLOCK, header


def _table_header(block: Block) -> str:
    """The header and the delimiter row of a Markdown table that has more rows, with their line ends; else nothing."""
    if block.kind is not BlockKind.TABLE:
        return ""
    first = block.text.find("\n") + 1
    second = block.text.find("\n", first) + 1
    if not first or not second or second > _PASSAGE_CHARACTERS:
        return ""
    return block.text[:second] if set(block.text[first : second - 1]) <= _DELIMITER_CHARACTERS else ""
