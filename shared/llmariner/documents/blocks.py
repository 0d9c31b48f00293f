"""What a parser finds in a document, and what a chunk of it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Block", "BlockKind", "TextChunk"]


class BlockKind(StrEnum):
    """What a block is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True)
class Block:
    """A piece of a document, in reading order. `level`: of a heading, 1 is the highest. `page`: from 1, if any."""

    kind: BlockKind
    text: str
    page: int | None = None
    level: int = 0


@dataclass(frozen=True)
class TextChunk:
    """A chunk. `text` begins with its headings. `start` and `end`: characters of the document's text, its joined blocks.

    `page`: where it begins. `headings`: those above it, the highest first. `tokens`: of `text`.
    """

    index: int
    text: str
    start: int
    end: int
    tokens: int
    page: int | None = None
    headings: tuple[str, ...] = ()
