"""Bytes in parts, read in other sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from llmariner.platform.model_files.part_stream import PartStream


def test_parts_of_any_sizes_are_read_to_the_end_and_closed() -> None:
    closed: list[bool] = []

    def parts() -> Generator[bytes, None, None]:
        try:
            yield from (b"", b"abcde", b"", b"f", b"gh")
        finally:
            closed.append(True)

    whole = PartStream(parts())
    assert list(iter(lambda: whole.read(3), b"")) == [b"abc", b"de", b"f", b"gh"]
    with contextlib.closing(PartStream(parts())) as stream:
        assert stream.read(1) == b"a"
        assert len(closed) == 1
    assert len(closed) == 2, "also where it is left in the middle"
