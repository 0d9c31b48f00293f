"""Excel (xlsx): a heading and a table per sheet. Cells have the values last computed; macros and charts are left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

import openpyxl

from llmariner.documents.archives import open_archive
from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.markdown_tables import markdown_table
from llmariner.documents.source import Source

__all__ = ["read"]


def read(source: Source) -> Iterator[Block]:
    """The blocks of a workbook, sheet after sheet."""
    with open_archive(source):
        pass
    source.stream.seek(0)
    workbook = openpyxl.load_workbook(source.stream, read_only=True, data_only=True, keep_links=False)
    for sheet in workbook.worksheets:
        # A sheet may say that it has a million rows and 16,384 columns; its rows say how many it has.
        sheet.reset_dimensions()
        table = markdown_table([_text(value) for value in row] for row in sheet.iter_rows(values_only=True))
        if table:
            yield Block(BlockKind.HEADING, sheet.title, level=1)
            yield Block(BlockKind.TABLE, table)


def _text(value: Any) -> str:
    """A cell as text: dates in ISO 8601, whole numbers without a decimal point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
