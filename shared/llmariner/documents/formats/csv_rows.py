"""CSV and TSV: one table, whose first row is the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source

__all__ = ["read"]

_DELIMITERS = ",;\t|"
_HEADER_CHARACTERS = 64 * 1024
_FIELD_CHARACTERS = 2**24


def read(source: Source) -> Iterator[Block]:
    """A table block. Raises DocumentError."""
    text = source.text()
    csv.field_size_limit(_FIELD_CHARACTERS)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        yield Block(BlockKind.TABLE, markdown_table(rows))
    except csv.Error as error:
        message = f"The file is not CSV: {error}. A quotation mark may be without its end."
        raise DocumentError.invalid(message) from error


def _delimiter(text: str) -> str:
    """The delimiter that the header has most often; a comma if it has none."""
    header = text[:_HEADER_CHARACTERS].lstrip("\n").partition("\n")[0]
    return max(_DELIMITERS, key=header.count)
