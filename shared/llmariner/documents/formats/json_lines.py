"""JSON Lines: a block of code per line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.formats.json_values import parse_json
from llmariner.documents.source import Source

__all__ = ["read"]


def read(source: Source) -> Iterator[Block]:
    """The blocks of a JSON Lines document. Raises DocumentError, which names the line."""
    for number, line in enumerate(source.text().split("\n"), start=1):
        if line.strip():
            yield Block(BlockKind.CODE, json.dumps(parse_json(line, f"Line {number}"), ensure_ascii=False))
