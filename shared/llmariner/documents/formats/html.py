"""HTML: headings, paragraphs, lists, preformatted text, tables. The document is read as a stream; no tree is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lxml import etree

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source, decode

__all__ = ["html_blocks", "read"]

_SKIPPED = {"script", "style", "template", "noscript", "svg", "math", "head", "object", "iframe", "select", "button"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_NAMES = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd label mark nobr q rp rt ruby s"
    " samp small span strike strong sub sup time tt u var wbr"
)
_INLINE = set(_INLINE_NAMES.split())
_LISTS = {"ul", "ol", "dl", "menu"}
_SPACE = re.compile(r"[ \t\n\r\f\v\xa0]+")
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]{0,500}?(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.I)
_CHARSET_WITHIN_BYTES = 4096
_FED_CHARACTERS = 64 * 1024


def read(source: Source) -> Iterator[Block]:
    """The blocks of an HTML document."""
    source.stream.seek(0)
    return html_blocks(source.stream.read(), source.charset)


def html_blocks(data: bytes | str, charset: str | None = None) -> Iterator[Block]:
    """The blocks of HTML, in the encoding that it declares unless `charset` is given."""
    if isinstance(data, bytes):
        declared = _CHARSET.search(data[:_CHARSET_WITHIN_BYTES])
        data = decode(data, charset or (declared[1].decode("ascii") if declared else None))
    target = _Target()
    # Without network and DTD; with libxml2's own limits of depth and size.
    parser = etree.HTMLParser(target=target, no_network=True, huge_tree=False, encoding="utf-8")
    for start in range(0, len(data), _FED_CHARACTERS):
        parser.feed(data[start : start + _FED_CHARACTERS].encode("utf-8"))
        yield from target.take()
    if data:
        parser.close()
    target.flush()
    yield from target.take()


class _Target:
    """Receives the parser's events and gathers blocks."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._text: list[str] = []
        self._skipped: list[str] = []
        self._lists = 0
        self._heading = 0
        self._preformatted = 0
        self._tables = 0
        self._rows: list[list[str]] = []

    def take(self) -> list[Block]:
        """The blocks that are complete."""
        blocks, self._blocks = self._blocks, []
        return blocks

    def start(self, tag: str, _attributes: Mapping[str, str]) -> None:
        if self._skipped or tag in _SKIPPED:
            # The parser closes what it opened, also where the document does not.
            self._skipped.append(tag)
        elif self._tables:
            self._start_in_table(tag)
        elif tag == "br":
            self._text.append("\n")
        elif tag == "li" or (tag in ("dt", "dd") and self._lists):
            self._text.append("\n" + "  " * (min(self._lists, 9) - 1) + "- ")
        elif tag not in _INLINE:
            self._start_block(tag)

    def _start_block(self, tag: str) -> None:
        if self._lists and tag not in ("table", "pre") and tag not in _HEADINGS:
            self._lists += tag in _LISTS
            return
        self.flush()
        self._lists += tag in _LISTS
        self._heading = _HEADINGS.get(tag, self._heading)
        self._preformatted += tag == "pre"
        if tag == "table":
            self._tables = 1
            self._rows = []

    def _start_in_table(self, tag: str) -> None:
        if tag == "table":
            self._tables += 1
        elif self._tables == 1 and tag == "tr":
            self._rows.append([])
        elif self._tables == 1 and tag in ("td", "th"):
            self._text = []
            if not self._rows:
                self._rows.append([])
        elif tag not in _INLINE:
            self._text.append(" ")

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped.pop()
        elif self._tables:
            self._end_in_table(tag)
        elif tag in _LISTS:
            self._lists = max(0, self._lists - 1)
            if not self._lists:
                self.flush()
        elif (
            tag not in _INLINE
            and tag not in ("br", "li", "dt", "dd")
            and (not self._lists or tag in (*_HEADINGS, "pre"))
        ):
            self.flush()
            self._heading = 0 if tag in _HEADINGS else self._heading
            self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def _end_in_table(self, tag: str) -> None:
        if tag == "table":
            self._tables -= 1
            if not self._tables:
                self._end_table()
        elif self._tables == 1 and tag in ("td", "th", "caption"):
            self._end_cell(is_caption=tag == "caption")

    def _end_cell(self, *, is_caption: bool = False) -> None:
        text = _SPACE.sub(" ", "".join(self._text)).strip()
        self._text = []
        if is_caption and text:
            self._blocks.append(Block(BlockKind.PARAGRAPH, text))
        elif self._rows and not is_caption:
            self._rows[-1].append(text)

    def _end_table(self) -> None:
        self._blocks.append(Block(BlockKind.TABLE, markdown_table(self._rows)))
        self._rows, self._text = [], []

    def data(self, text: str) -> None:
        if self._skipped:
            return
        if not self._preformatted:
            text = _SPACE.sub(" ", text)
            if self._text and self._text[-1].endswith((" ", "\n")):
                text = text.lstrip(" ")
        self._text.append(text)

    def comment(self, _text: str) -> None:
        """Comments are left out."""

    def close(self) -> None:
        """Called at the end of the document."""

    def flush(self) -> None:
        """Complete the block that is being gathered."""
        text = "".join(self._text)
        self._text = []
        if self._preformatted:
            self._blocks.append(Block(BlockKind.CODE, text.strip("\n")))
            return
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip()
        if text:
            kind = BlockKind.HEADING if self._heading else BlockKind.PARAGRAPH
            self._blocks.append(Block(kind, _SPACE.sub(" ", text) if self._heading else text, level=self._heading))
