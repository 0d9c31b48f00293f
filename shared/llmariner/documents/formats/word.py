"""Word (docx): headings by style, paragraphs, lists, tables. Macros, comments and pictures are left out.

Pages are those of the last time that the document was laid out; documents that were never laid out have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import docx
from docx.document import Document
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph

from llmariner.documents.archives import open_archive
from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source

__all__ = ["read"]

_HEADING_STYLE = re.compile(r"heading ([1-9])$", re.IGNORECASE)
_PAGE_BREAK = qn("w:lastRenderedPageBreak")
_TABLE_DEPTH = 10


def read(source: Source) -> Iterator[Block]:
    """The blocks of a docx document."""
    with open_archive(source):
        pass
    source.stream.seek(0)
    document: Document = docx.Document(source.stream)
    body = document.element.body
    page = 1 if next(body.iter(_PAGE_BREAK), None) is not None else None
    for content in document.iter_inner_content():
        breaks = sum(1 for _ in content._element.iter(_PAGE_BREAK)) if page is not None else 0
        yield _table(content, page) if isinstance(content, Table) else _paragraph(content, page)
        if page is not None:
            page += breaks


def _paragraph(paragraph: Paragraph, page: int | None) -> Block:
    if page is not None and _begins_page(paragraph):
        page += 1
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    text = paragraph.text.strip()
    if heading := _HEADING_STYLE.match(style):
        return Block(BlockKind.HEADING, text, page, int(heading[1]))
    if style.casefold() == "title":
        return Block(BlockKind.HEADING, text, page, 1)
    is_item = style.casefold().startswith("list") or paragraph._p.find(f".//{qn('w:numPr')}") is not None
    return Block(BlockKind.PARAGRAPH, f"- {text}" if is_item and text else text, page)


def _begins_page(paragraph: Paragraph) -> bool:
    """A page break stands before the paragraph's first text."""
    for element in paragraph._p.iter(_PAGE_BREAK, qn("w:t")):
        return bool(element.tag == _PAGE_BREAK)
    return False


def _table(table: Table, page: int | None) -> Block:
    return Block(BlockKind.TABLE, markdown_table(_rows(table, 1)), page)


def _rows(table: Table, depth: int) -> Iterator[list[str]]:
    """The texts of a table's cells. A merged cell has its text once; tables in cells are flattened."""
    for row in table.rows:
        texts: list[str] = []
        previous = None
        for cell in row.cells:
            if cell._tc is previous:
                texts.append("")
                continue
            previous = cell._tc
            parts = [cell.text]
            if depth < _TABLE_DEPTH:
                parts += [" ".join(inner) for nested in cell.tables for inner in _rows(nested, depth + 1)]
            texts.append(" ".join(parts))
        yield texts
