"""Documents of office programs, emails and EPUBs, made by the libraries that read them or by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime

import docx
import openpyxl
import pptx

__all__ = ["archive", "epub", "presentation", "replace_part", "word", "workbook"]


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Guide", 0)
    document.add_heading("Install", 1)
    document.add_paragraph("First.")
    document.add_paragraph("item", style="List Bullet")
    table = document.add_table(2, 3)
    table.cell(0, 0).text = "a"
    table.cell(0, 1).text = "b"
    table.cell(1, 0).merge(table.cell(1, 1)).text = "wide"
    table.cell(1, 2).text = "x\ny|z"
    document.add_paragraph("Last.")
    return _saved(document.save)


def presentation() -> bytes:
    slides = pptx.Presentation()
    first = slides.slides.add_slide(slides.slide_layouts[1])
    first.shapes.title.text = "One"
    first.placeholders[1].text = "body"
    first.notes_slide.notes_text_frame.text = "note"
    second = slides.slides.add_slide(slides.slide_layouts[5])
    second.shapes.title.text = "Two"
    table = second.shapes.add_table(2, 2, 0, 0, 100, 100).table
    table.cell(0, 0).text = "h"
    table.cell(1, 1).text = "v"
    second.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    return _saved(slides.save)


def workbook() -> bytes:
    target = openpyxl.Workbook()
    sheet = target.active
    sheet.title = "Sizes"
    sheet.append(["name", "count", "when", "is new"])
    sheet.append(["x", 1.0, datetime(2026, 1, 2), True])
    sheet.append([])
    sheet.append([None, 2.5, datetime(2026, 1, 2, 3, 4), False])
    target.create_sheet("Empty")
    return _saved(target.save)


def epub(chapters: Mapping[str, str], extra: Mapping[str, bytes] | None = None) -> bytes:
    """An EPUB of chapters (XHTML bodies by name), in order."""
    items = "".join(
        f'<item id="{name}" href="text/{name}.xhtml" media-type="application/xhtml+xml"/>' for name in chapters
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>A  title</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    )
    parts = {"mimetype": b"application/epub+zip", "META-INF/container.xml": container.encode()}
    parts["OEBPS/content.opf"] = package.encode()
    for name, body in chapters.items():
        parts[f"OEBPS/text/{name}.xhtml"] = f"<!DOCTYPE html><html><body>{body}</body></html>".encode()
    return archive(parts | dict(extra or {}))


def archive(parts: Mapping[str, bytes]) -> bytes:
    """A ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in parts.items():
            target.writestr(name, data)
    return buffer.getvalue()


def replace_part(document: bytes, name: str, *pairs: tuple[bytes, bytes]) -> bytes:
    """The document with texts of one of its parts replaced; each must be there."""
    with zipfile.ZipFile(io.BytesIO(document)) as source:
        parts = {entry: source.read(entry) for entry in source.namelist()}
    for old, new in pairs:
        assert old in parts[name]
        parts[name] = parts[name].replace(old, new)
    return archive(parts)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()
