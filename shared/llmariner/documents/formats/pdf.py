"""PDF: the text of each page. Headings are the titles of the outline (bookmarks) that stand in a line of their page.

PDF has no tables: their cells appear as words of lines. Pages that are images have no text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pypdf import PasswordType, PdfReader
from pypdf.errors import DependencyError, LimitReachedError, PyPdfError

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.formats.plain_text import paragraphs
from llmariner.documents.source import Source

__all__ = ["read"]

_OUTLINE_ITEMS = 5_000
_OUTLINE_DEPTH = 6
_TITLE_CHARACTERS = 500
# Fonts have them; words are searched for by their letters.
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
_SPACE = re.compile(r"\s+")
# Numbers of chapters stand in the page or in the outline, not always in both.
_NUMBER = re.compile(r"((chapter|section|appendix|part) )?([0-9]+(\.[0-9]+)*|[a-z]|[ivxl]+)[.:)]? (?=\S)")
_ENCRYPTED = "The PDF is encrypted. Remove its password and upload it again."

# Outline titles of a page, normalized, with their levels.
_Titles = dict[int, dict[str, int]]


def read(source: Source) -> Iterator[Block]:
    """The blocks of a PDF; each has its page. Raises DocumentError."""
    # pypdf logs a line per fault of a document, of which there may be millions.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    source.stream.seek(0)
    try:
        reader = PdfReader(source.stream, strict=False)
        _decrypt(reader)
        pages = len(reader.pages)
    except PyPdfError as error:
        message = "The PDF is damaged or incomplete. Open it, save it as PDF again, and upload that."
        raise DocumentError.invalid(message, detail=repr(error)) from error
    if pages > source.limits.pages:
        raise DocumentError.invalid(f"The PDF has {pages} pages; {source.limits.pages} are allowed. Split it.")
    titles = _titles(reader)
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = page.extract_text().translate(_LIGATURES)
        except LimitReachedError as error:
            message = f"Page {number} of the PDF is too complex. Split it or simplify it."
            raise DocumentError.invalid(message, detail=repr(error)) from error
        except (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            message = f"Page {number} of the PDF is damaged. Open it, save it as PDF again, and upload that."
            raise DocumentError.invalid(message, detail=repr(error)) from error
        yield from _blocks(text, number, titles.get(number, {}))


def _decrypt(reader: PdfReader) -> None:
    """Open documents whose user password is empty: those that only forbid printing or changes."""
    if not reader.is_encrypted:
        return
    try:
        if reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise DocumentError.invalid(_ENCRYPTED)
    except (DependencyError, NotImplementedError) as error:
        raise DocumentError.invalid(_ENCRYPTED, detail=repr(error)) from error


def _titles(reader: PdfReader) -> _Titles:
    """The outline by page. A damaged outline has no titles: the text can be read nevertheless."""
    titles: _Titles = {}
    try:
        for count, (item, level) in enumerate(_items(reader.outline, 1)):
            page = reader.get_destination_page_number(item)
            title = _normalized(str(item.title))
            if page is not None and page >= 0 and title:
                titles.setdefault(page + 1, {})[title] = level
            if count >= _OUTLINE_ITEMS:
                break
    except (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return {}
    return titles


def _items(outline: Iterable[Any], level: int) -> Iterator[tuple[Any, int]]:
    for item in outline:
        if not isinstance(item, list):
            yield item, level
        elif level < _OUTLINE_DEPTH:
            yield from _items(item, level + 1)


def _normalized(title: str) -> str:
    """A title without its number, for comparison."""
    text = _SPACE.sub(" ", title[:_TITLE_CHARACTERS]).strip().casefold()
    return _NUMBER.sub("", text, count=1) if _NUMBER.match(text) else text


def _blocks(text: str, page: int, titles: dict[str, int]) -> Iterator[Block]:
    lines: list[str] = []
    for line in text.split("\n"):
        # Running titles repeat a heading; its first line is the heading.
        level = titles.pop(_normalized(line), None) if titles and len(line) <= _TITLE_CHARACTERS else None
        if level is None:
            lines.append(line)
            continue
        yield from paragraphs("\n".join(lines), page)
        yield Block(BlockKind.HEADING, line.strip(), page, level)
        lines = []
    yield from paragraphs("\n".join(lines), page)
