"""Large objects are copied in pieces that S3 accepts as parts."""

from __future__ import annotations

import pytest

from llmariner.platform.objects.s3 import _pieces

MIB = 1 << 20


@pytest.mark.parametrize("size", [1, 5 * MIB, 64 * MIB, 64 * MIB + 1, 513 * MIB, (5 << 30) + 7])
def test_pieces_cover_an_object_and_none_is_too_small_or_too_large(size: int) -> None:
    ranges = [tuple(map(int, piece.removeprefix("bytes=").split("-"))) for piece in _pieces(size)]
    assert [first for first, _ in ranges] == [0, *(last + 1 for _, last in ranges[:-1])]
    assert ranges[-1][1] == size - 1
    sizes = [last - first + 1 for first, last in ranges]
    assert max(sizes) <= 64 * MIB
    assert len(sizes) == 1 or min(sizes) >= 5 * MIB
