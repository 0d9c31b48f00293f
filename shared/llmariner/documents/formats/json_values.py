"""JSON: a block of indented code per element of a top-level array, or one for the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.source import Source

__all__ = ["parse_json", "read"]


def read(source: Source) -> Iterator[Block]:
    """The blocks of a JSON document. Raises DocumentError."""
    value = parse_json(source.text(), "The file")
    for element in value if isinstance(value, list) else [value]:
        yield Block(BlockKind.CODE, json.dumps(element, ensure_ascii=False, indent=1))


def parse_json(text: str, subject: str) -> object:
    """A JSON value. Raises DocumentError, whose message begins with `subject`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DocumentError.invalid(f"{subject} is JSON that is nested too deep.") from error
    except ValueError as error:
        # Only the decoder's own errors have words for people; others tell of Python's limits.
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it has a number of too many digits"
        raise DocumentError.invalid(f"{subject} is not JSON: {reason}.") from error
