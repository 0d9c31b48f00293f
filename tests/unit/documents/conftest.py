"""Documents in files, and their blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmariner.documents.blocks import Block
from llmariner.documents.errors import DocumentError
from llmariner.documents.limits import ParserLimits
from llmariner.documents.parser import extract

LIMITS = ParserLimits(seconds=120, cpu_seconds=60)

Extract = Callable[..., list[Block]]
Fail = Callable[..., DocumentError]


@pytest.fixture
def read(tmp_path: Path) -> Extract:
    """Extracts bytes under a file name."""

    def blocks(data: bytes, name: str, content_type: str | None = None, limits: ParserLimits = LIMITS) -> list[Block]:
        # The parser has no use for the path: the object store's keys have no names.
        path = tmp_path / "object"
        path.write_bytes(data)
        return extract(path, name, content_type, limits=limits)

    return blocks


@pytest.fixture
def fail(read: Extract) -> Fail:
    """The error of extracting bytes."""

    def error(data: bytes, name: str, content_type: str | None = None, limits: ParserLimits = LIMITS) -> DocumentError:
        with pytest.raises(DocumentError) as raised:
            read(data, name, content_type, limits)
        return raised.value

    return error
