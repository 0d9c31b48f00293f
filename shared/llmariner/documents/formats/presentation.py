"""PowerPoint (pptx): a slide is a page, its title a heading. Tables and notes are read; macros and pictures are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pptx

from llmariner.documents.archives import open_archive
from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source

__all__ = ["read"]


def read(source: Source) -> Iterator[Block]:
    """The blocks of a presentation; `page` is the number of the slide."""
    with open_archive(source):
        pass
    source.stream.seek(0)
    presentation = pptx.Presentation(source.stream)
    slides = len(presentation.slides)
    if slides > source.limits.pages:
        raise DocumentError.invalid(
            f"The presentation has {slides} slides; {source.limits.pages} are allowed. Split it."
        )
    for page, slide in enumerate(presentation.slides, start=1):
        title = slide.shapes.title
        if title is not None and title.text_frame.text.strip():
            yield Block(BlockKind.HEADING, " ".join(title.text_frame.text.split()), page, 1)
        others = (shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id)
        yield from _shape_blocks(others, page, source.limits.part_depth)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            yield Block(BlockKind.PARAGRAPH, _text(slide.notes_slide.notes_text_frame), page)


def _shape_blocks(shapes: Iterable[Any], page: int, depth: int) -> Iterator[Block]:
    for shape in shapes:
        if getattr(shape, "has_table", False):
            rows = ([cell.text_frame.text for cell in row.cells] for row in shape.table.rows)
            yield Block(BlockKind.TABLE, markdown_table(rows), page)
        elif shape.has_text_frame:
            yield Block(BlockKind.PARAGRAPH, _text(shape.text_frame), page)
        elif hasattr(shape, "shapes") and depth:
            yield from _shape_blocks(shape.shapes, page, depth - 1)


def _text(frame: Any) -> str:
    """The paragraphs of a text frame, indented by their level."""
    lines = ("  " * paragraph.level + paragraph.text.replace("\v", "\n") for paragraph in frame.paragraphs)
    return "\n".join(line for line in lines if line.strip())
