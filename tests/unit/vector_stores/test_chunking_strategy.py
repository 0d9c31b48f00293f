"""Chunking strategies: OpenAI's defaults and bounds."""

from __future__ import annotations

import pytest

from llmariner.errors import InvalidRequest
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy


def test_auto_has_openais_sizes() -> None:
    auto = ChunkingStrategy()
    assert auto.automatic
    sizes = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
    assert auto.to_api() == {"type": "static", "static": sizes}
    assert ChunkingStrategy.from_text(auto.to_text()) == auto


@pytest.mark.parametrize(("size", "overlap"), [(100, 0), (100, 50), (4096, 2048), (101, 50)])
def test_static_sizes_survive(size: int, overlap: int) -> None:
    made = ChunkingStrategy.static(size, overlap)
    assert not made.automatic
    assert ChunkingStrategy.from_text(made.to_text()) == made
    assert made.to_api()["static"] == {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}


@pytest.mark.parametrize(
    ("size", "overlap", "field"),
    [
        (99, 0, "max_chunk_size_tokens"),
        (4097, 0, "max_chunk_size_tokens"),
        (-1, 0, "max_chunk_size_tokens"),
        (10**30, 0, "max_chunk_size_tokens"),
        (100, -1, "chunk_overlap_tokens"),
        (100, 51, "chunk_overlap_tokens"),
        (101, 51, "chunk_overlap_tokens"),
        (100, 10**30, "chunk_overlap_tokens"),
    ],
)
def test_sizes_out_of_range_are_refused(size: int, overlap: int, field: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        ChunkingStrategy.static(size, overlap, "files.0.chunking_strategy")
    assert failed.value.param == f"files.0.chunking_strategy.static.{field}"
