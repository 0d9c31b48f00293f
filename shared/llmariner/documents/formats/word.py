"""Word (docx): headings by style, paragraphs, lists, tables, text boxes, inserted and not yet accepted text.

Macros, comments, footnotes, deleted text and pictures are left out. Pages are those of the last time that the document
was laid out; documents that were never laid out have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import docx
from docx.document import Document
from docx.oxml.ns import qn
from lxml import etree

from llmariner.documents.archives import open_archive
from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source

__all__ = ["read"]

_HEADING_STYLE = re.compile(r"heading ([1-9])$")
_PARAGRAPH, _TABLE, _ROW, _CELL = (qn(f"w:{name}") for name in ("p", "tbl", "tr", "tc"))
# What may stand around paragraphs, rows and cells: content controls, custom XML, tracked insertions.
_WRAPPERS = {qn(f"w:{name}") for name in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag")}
_TEXT, _TAB, _BREAK, _RETURN = (qn(f"w:{name}") for name in ("t", "tab", "br", "cr"))
_LAID_OUT_BREAK = qn("w:lastRenderedPageBreak")
# The same content again, for programs that don't know the first form.
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
# Word has at most 63 columns.
_COLUMNS = 63


def read(source: Source) -> Iterator[Block]:
    """The blocks of a docx document."""
    with open_archive(source):
        pass
    source.stream.seek(0)
    document: Document = docx.Document(source.stream)
    styles = {style.style_id: (style.name or "").casefold() for style in document.styles}
    body = document.element.body
    for fallback in list(body.iter(_FALLBACK)):
        fallback.getparent().remove(fallback)
    page = 1 if next(body.iter(_LAID_OUT_BREAK), None) is not None else None
    for element in _children(body, _PARAGRAPH, _TABLE):
        breaks = sum(1 for _ in element.iter(_LAID_OUT_BREAK)) if page is not None else 0
        begins = page + 1 if page is not None and breaks and _begins_page(element) else page
        if element.tag == _TABLE:
            yield Block(BlockKind.TABLE, markdown_table(_rows(element)), begins)
        else:
            yield _paragraph(element, styles, begins)
        if page is not None:
            page += breaks


def _children(parent: etree._Element, *tags: str) -> Iterator[etree._Element]:
    """The elements of some tags in another, also in what may stand around them, in order."""
    pending = [iter(parent)]
    while pending:
        element = next(pending[-1], None)
        if element is None:
            pending.pop()
        elif element.tag in tags:
            yield element
        elif element.tag in _WRAPPERS:
            pending.append(iter(element))


def _paragraph(element: etree._Element, styles: Mapping[str, str], page: int | None) -> Block:
    style_id = element.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
    style = styles.get(style_id.get(qn("w:val"), ""), "") if style_id is not None else ""
    text = _text(element).strip()
    if heading := _HEADING_STYLE.match(style):
        return Block(BlockKind.HEADING, " ".join(text.split()), page, int(heading[1]))
    if style == "title":
        return Block(BlockKind.HEADING, " ".join(text.split()), page, 1)
    is_item = style.startswith("list") or element.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None
    return Block(BlockKind.PARAGRAPH, f"- {text}" if is_item and text else text, page)


def _text(element: etree._Element) -> str:
    parts: list[str] = []
    for item in element.iter(_TEXT, _TAB, _BREAK, _RETURN, _PARAGRAPH):
        if item.tag == _TEXT:
            parts.append(item.text or "")
        elif item.tag == _TAB:
            # Tab stops of the paragraph's properties have the same name.
            parts.append("\t" if item.getparent().tag == qn("w:r") else "")
        else:
            parts.append("\n")
    return "".join(parts)


def _begins_page(element: etree._Element) -> bool:
    """A page break stands before the element's first text."""
    first = next(element.iter(_LAID_OUT_BREAK, _TEXT), None)
    return first is not None and first.tag == _LAID_OUT_BREAK


def _rows(table: etree._Element) -> Iterator[list[str]]:
    """The texts of a table's cells. A merged cell has its text once; tables in cells are flattened."""
    for row in _children(table, _ROW):
        texts: list[str] = []
        for cell in _children(row, _CELL):
            texts.append(_text(cell))
            texts += [""] * (min(cell.grid_span, _COLUMNS) - 1)
        yield texts
